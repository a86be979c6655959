"""What a client says: a list of frontend messages with pauses in it, and how such a list is written down.

Rules
1. A script is a list of messages as bytes. `WAIT` is a pause: the client goes on when it has everything that PostgreSQL
   has answered so far (and certainly answers without hearing more). `rival(n)` is a pause in which, if no transaction
   is open, another client of the same pool does something (`bench.RIVALS`).
2. `salted` makes the texts of Parse unique, so that whether the pooler knows a text never depends on earlier scripts.
3. `listing` writes a script as the Python code that builds it: what a failure prints can be pasted into a test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tests.torture.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    message,
    parse,
    query,
)

__all__ = [
    "COPY_DONE", "FLUSH", "SYNC", "WAIT", "Script", "bind", "bind_as", "close_portal", "close_statement", "copy_data",
    "copy_fail", "describe_portal", "describe_statement", "execute", "function_call", "is_pause", "listing", "parse",
    "query", "rival", "rival_number", "salted", "texts_of",
]  # fmt: skip

Script = list[bytes]
WAIT = b""
RIVAL = b"!"
UNSALTED = ("DEALLOCATE", "DISCARD", "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE")


def rival(number: int) -> bytes:
    """A pause for the other client; not a message."""
    return RIVAL + bytes([number])


def rival_number(step: bytes) -> int | None:
    return step[1] if step[:1] == RIVAL else None


def is_pause(step: bytes) -> bool:
    return step[:1] in (WAIT, RIVAL)


def close_portal(name: str = "") -> bytes:
    return message(b"C", b"P" + name.encode() + b"\0")


def bind_as(
    values: Sequence[bytes | None],
    name: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    """Bind with any number of format codes for the parameters and for the results."""
    parts = [portal.encode(), b"\0", name.encode(), b"\0", struct.pack(f"!h{len(formats)}h", len(formats), *formats)]
    parts.append(struct.pack("!h", len(values)))
    for value in values:
        parts.append(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value)
    return message(b"B", b"".join(parts) + struct.pack(f"!h{len(results)}h", len(results), *results))


# -- Parse texts


def texts_of(script: Sequence[bytes]) -> list[str]:
    """The texts that are parsed, each once."""
    return list(dict.fromkeys(_parsed(step)[1] for step in script if step[:1] == b"P"))


def salted(script: Sequence[bytes], salt: int) -> Script:
    """Rule 2. A comment at the end moves no error position; what a pooler may look for is left as it is."""
    return [_salted_parse(step, salt) if step[:1] == b"P" else step for step in script]


def _salted_parse(step: bytes, salt: int) -> bytes:
    name, text, types = _parsed(step)
    if not text or text.upper().startswith(UNSALTED):
        return step
    return parse(f"{text} /*{salt}*/", name, types)


def _parsed(step: bytes) -> tuple[str, str, tuple[int, ...]]:
    name, text, rest = step[5:].split(b"\0", 2)
    return name.decode(), text.decode(), struct.unpack(f"!{len(rest) // 4}I", rest[2:])


# -- writing a script down


def listing(script: Sequence[bytes]) -> str:
    """Rule 3: a few messages a line, a new line after each pause, Sync or Query."""
    lines, line = [], ""
    for step in script:
        line += f"{_written(step)}, "
        if is_pause(step) or step[:1] in b"SQF":
            lines.append(line.rstrip())
            line = ""
    return "\n".join([*lines, line.rstrip()] if line else lines)


def _written(step: bytes) -> str:
    if is_pause(step):
        return "WAIT" if step == WAIT else f"rival({step[1]})"
    write = WRITERS.get(step[:1])
    if write is None:
        return f"message({step[:1]!r}, {_literal(step[5:])})"
    return write(step[5:])


def _write_query(body: bytes) -> str:
    return _call("query", _literal(body[:-1].decode()))


def _write_parse(body: bytes) -> str:
    name, text, types = _parsed(b"P----" + body)
    return _call("parse", _literal(text), repr(name) if name or types else "", f"{list(types)}" if types else "")


def _write_bind(body: bytes) -> str:
    portal, name, rest = body.split(b"\0", 2)
    formats, rest = _shorts(rest)
    (count,), rest = struct.unpack("!h", rest[:2]), rest[2:]
    values = []
    for _ in range(count):
        (length,) = struct.unpack("!i", rest[:4])
        values.append("None" if length < 0 else _literal(rest[4 : 4 + length]))
        rest = rest[4 + max(length, 0) :]
    results, _ = _shorts(rest)
    names = [repr(name.decode()), repr(portal.decode())]
    shown = f"[{', '.join(values)}]" if values else "[]"
    if results or len(formats) != 1:
        return _call("bind_as", shown, *names, f"{formats}", f"{results}")
    while names and names[-1] == "''":
        names.pop()
    return _call("bind", shown if values or names else "", *names, "binary=True" if formats[0] else "")


def _write_described(function: str) -> Callable[[bytes], str]:
    def write(body: bytes) -> str:
        kind = "statement" if body[:1] == b"S" else "portal"
        name = body[1:-1].decode()
        return _call(f"{function}_{kind}", repr(name) if name or function == "close" else "")

    return write


def _write_execute(body: bytes) -> str:
    portal, limit = body[:-5].decode(), struct.unpack("!i", body[-4:])[0]
    return _call("execute", repr(portal) if portal or limit else "", str(limit) if limit else "")


def _write_function_call(body: bytes) -> str:
    (oid,) = struct.unpack("!i", body[:4])
    (count,) = struct.unpack("!h", body[8:10])
    return _call("function_call", str(oid), "[]") if not count else f"message(b'F', {body!r})"


def _call(function: str, *arguments: str) -> str:
    return f"{function}({', '.join(one for one in arguments if one)})"


def _literal(value: bytes | str) -> str:
    """A literal; a long run of one character, as large values here are, as a product."""
    for at in range(min(len(value), 40)):
        run = len(value) - at - len(value[at:].lstrip(value[at : at + 1]))  # type: ignore[arg-type]
        if run > 60:
            parts = [value[:at], None, value[at + run :]]
            shown = [
                f"{value[at : at + 1]!r} * {run}" if part is None else repr(part) for part in parts if part != value[:0]
            ]
            return " + ".join(shown)
    return repr(value)


def _shorts(data: bytes) -> tuple[list[int], bytes]:
    (count,) = struct.unpack("!h", data[:2])
    return list(struct.unpack(f"!{count}h", data[2 : 2 + 2 * count])), data[2 + 2 * count :]


WRITERS: dict[bytes, Callable[[bytes], str]] = {
    b"Q": _write_query,
    b"P": _write_parse,
    b"B": _write_bind,
    b"D": _write_described("describe"),
    b"C": _write_described("close"),
    b"E": _write_execute,
    b"F": _write_function_call,
    b"S": lambda body: "SYNC",
    b"H": lambda body: "FLUSH",
    b"c": lambda body: "COPY_DONE",
    b"d": lambda body: _call("copy_data", _literal(body)),
    b"f": lambda body: _call("copy_fail", repr(body[:-1].decode())),
}
