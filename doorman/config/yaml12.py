"""YAML as the reference reads it: plain scalars by the rules of YAML 1.2, exactly one document, nulls dropped.

PyYAML's parser is used, its YAML 1.1 meaning of scalars is not: `off`, `0600`, `1_000`, `12:30` and dates are strings.
Messages carry line and column but no text of the file: that may be a password.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from doorman.config.convert import join_path
from doorman.config.undecided import BAD
from doorman.config.units import MAX_INTEGER
from doorman.errors import ConfigError, ConfigProblem

_PREFIX = "tag:yaml.org,2002:"
_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """PyYAML up to the node graph; only the choice of a plain scalar's tag differs."""

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PREFIX + (_kind_of_plain(value) if implicit[0] else "str")
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class YamlTree(NamedTuple):
    """A document as dict, list, str, int, float and bool; `BAD` stands for what `problems` names."""

    tree: dict[str, Any]
    problems: list[ConfigProblem]
    warnings: list[ConfigProblem]


def read_yaml(text: str) -> YamlTree:
    """Read the one document of `text`; raises `ConfigError` when it has no such document."""
    builder = _Builder()
    tree = builder.build(_compose(text), "")
    return YamlTree(tree if isinstance(tree, dict) else {}, builder.problems, builder.warnings)


def _compose(text: str) -> MappingNode:
    try:
        documents = list(yaml.compose_all(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError([ConfigProblem("", f"YAML: {_explain(error)}")]) from None
    if len(documents) == 1 and isinstance(documents[0], MappingNode):
        return documents[0]
    if len(documents) > 1:
        reason = "more than one document"
    elif not documents or documents[0].tag == _PREFIX + "null":
        reason = "the file is empty"
    else:
        reason = "expected keys at top level"
    raise ConfigError([ConfigProblem("", f"YAML: {reason}")])


class _Builder:
    """Turns nodes into values, collecting what is wrong on the way."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []
        self._open: set[int] = set()

    def build(self, node: Node, path: str) -> Any:
        """The node's value; None for null, which the caller drops or refuses."""
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self._refuse(node, path, "an alias that contains itself")
        self._open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        return value

    def _mapping(self, node: MappingNode, path: str) -> Any:
        if node.tag != _PREFIX + "map":
            return self._refuse(node, path, "a tag that is not supported")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or _has_surrogate(key_node.value):
                self._refuse(key_node, path, "a key must be a single word")
                continue
            key = join_path(path, key_node.value)
            if key_node.value in result:
                self._report_duplicate(key_node, key)
            value = self.build(value_node, key)
            result.pop(key_node.value, None)
            if value is not None:
                result[key_node.value] = value
        return result

    def _sequence(self, node: Node, path: str) -> Any:
        if not isinstance(node, SequenceNode) or node.tag != _PREFIX + "seq":
            return self._refuse(node, path, "a tag that is not supported")
        values = []
        for index, item in enumerate(node.value):
            value = self.build(item, f"{path}[{index}]")
            values.append(self._refuse(item, f"{path}[{index}]", "null in a list") if value is None else value)
        return values

    def _scalar(self, node: ScalarNode, path: str) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        if kind not in ("str", "null", "bool", "int", "float"):
            return self._refuse(node, path, "a tag that is not supported")
        if _has_surrogate(node.value):
            return self._refuse(node, path, "half of a surrogate pair")
        if kind in ("str", "null"):
            return node.value if kind == "str" else None
        if _kind_of_plain(node.value) != kind:
            return self._refuse(node, path, f"the value does not fit its tag {kind}")
        if kind == "int" and not -MAX_INTEGER - 1 <= _read_int(node.value) <= MAX_INTEGER:
            return self._refuse(node, path, "an integer out of range")
        return _BOOL[node.value] if kind == "bool" else _read_number(node.value, kind)

    def _refuse(self, node: Node, path: str, reason: str) -> Any:
        self.problems.append(ConfigProblem(path, f"YAML: {reason}{_position(node.start_mark)}"))
        return BAD

    def _report_duplicate(self, node: ScalarNode, key: str) -> None:
        if key == "include":
            self.problems.append(ConfigProblem(key, f"duplicate field{_position(node.start_mark)}"))
        else:
            reason = f"given more than once, the last one holds{_position(node.start_mark)}"
            self.warnings.append(ConfigProblem(key, reason))


def _has_surrogate(text: str) -> bool:
    """Escapes such as `"\\ud800"` make a text that no encoding can carry."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kind_of_plain(text: str) -> str:
    if text in _NULL or _ENDLESS.fullmatch(text):
        return "null"
    if text in _BOOL:
        return "bool"
    if _INT.fullmatch(text):
        return "int"
    return "float" if _FLOAT.fullmatch(text) else "str"


def _read_number(text: str, kind: str) -> int | float | None:
    if kind == "int":
        return _read_int(text)
    number = float(text)
    return number if math.isfinite(number) else None


def _read_int(text: str) -> int:
    if len(text) > 70:  # longer than 64 binary digits with sign and prefix: out of range however it is read
        return MAX_INTEGER + 1
    return int(text, 0)


def _explain(error: Exception) -> str:
    """PyYAML's words without pieces of the file: quoted text longer than one character is left out."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    if not problem:
        return "nested too deeply" if isinstance(error, RecursionError) else "cannot be read"
    words = re.sub(r"'(?!<)[^']{2,}'|\"(?!<)[^\"]{2,}\"", "(…)", str(problem))
    return words + _position(getattr(error, "problem_mark", None))


def _position(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
