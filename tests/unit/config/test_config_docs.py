"""The reference page names every key with its default, and the sample is a file that loads without a warning."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from doorman.config import schema
from doorman.config.load import load_config
from doorman.config.units import format_duration, format_size

DOCS = Path(__file__).resolve().parents[3] / "docs"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "`include`": schema.Include,
    "`general`": schema.General,
    "`web`": schema.Web,
    "`talos`": schema.Talos,
    "`pools.<name>`": schema.Pool,
    "`pools.<name>.users[]`": schema.User,
    "`pools.<name>.auth_query`": schema.AuthQuery,
}


def read_rows(title: str) -> dict[str, list[str]]:
    """Cells of the table rows under the heading that ends in `title`, by key."""
    page = (DOCS / "configuration.md").read_text()
    [section] = [part for part in re.split(r"^## ", page, flags=re.MULTILINE) if title in part.split("\n", 1)[0]]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_has_every_key_with_its_default(title: str) -> None:
    rows, fields = read_rows(title), msgspec.structs.fields(SECTIONS[title])
    assert rows.keys() == {field.name for field in fields}
    for field in fields:
        shown = rows[field.name][2].strip("`")
        assert shown in list_spellings(field), field.name


def list_spellings(field: msgspec.structs.FieldInfo) -> list[str]:
    if field.required:
        return ["required"]
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
    if value is None:
        return ["-"]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, int):
        return [str(value), format_duration(value), format_size(value), f'"{value:04o}"']
    return [f'"{value}"', str(value), str(list(value)).replace("'", '"')]


def test_the_page_says_which_keys_need_a_restart() -> None:
    restart = {
        f"{section}.{key}"
        for section in ("general", "web")
        for key, row in read_rows(f"`{section}`").items()
        if row[3] == "restart"
    }
    assert restart == schema.RESTART_KEYS


def test_the_sample_loads_without_a_warning() -> None:
    loaded = load_config(str(DOCS / "pg_doorman.sample.yaml"))
    assert loaded.warnings == []
    assert set(loaded.config.pools) == {"exampledb"}


def test_what_the_sample_comments_out_are_keys_too(tmp_path: Path) -> None:
    """Commented lines of the form `# key: value` loaded as well name no unknown key."""
    text = re.sub(
        r"^(\s*)# (\s*[a-z_]+:.*|  +.*|- .*)$", r"\1\2", (DOCS / "pg_doorman.sample.yaml").read_text(), flags=re.M
    )
    (tmp_path / "sample.yaml").write_text(re.sub(r"^.*(/etc|/run)/.*\n|^include:.*\n", "", text, flags=re.MULTILINE))
    path = tmp_path / "sample.yaml"
    path.write_text(path.read_text().replace('  tls_mode: "require"', '  tls_mode: "allow"'))
    loaded = load_config(str(path))
    assert not [str(warning) for warning in loaded.warnings if "unknown key" in warning.reason]
    assert loaded.config.pools["otherdb"].auth_query is not None
