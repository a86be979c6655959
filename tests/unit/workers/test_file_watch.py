"""Which files are read again, and when."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from doorman.config.schema import Config, General
from doorman.workers.file_watch import FileWatch


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "crt", tmp_path / "key"
    for path in paths:
        path.write_text("old")
    return paths


def config_of(files: tuple[Path, Path], interval: int = 1000) -> Config:
    general = General(
        admin_username="a",
        admin_password="b",
        tls_certificate=str(files[0]),
        tls_private_key=str(files[1]),
        tls_watch_interval=interval,
    )
    return Config(general=general, pools={})


def change(path: Path, text: str = "new") -> None:
    """By another file of the same name, and so always another stamp."""
    other = path.with_suffix(".other")
    other.write_text(text)
    other.replace(path)


def test_nothing_is_looked_at_without_an_interval(files: tuple[Path, Path]) -> None:
    watch, config = FileWatch(), config_of(files, 0)
    assert watch.look(config, 1.0) == []
    change(files[0])
    assert watch.look(config, 100.0) == []
    assert watch.next_at is None


def test_a_change_counts_when_it_is_at_rest_and_then_once(files: tuple[Path, Path]) -> None:
    watch, config = FileWatch(), config_of(files)
    assert watch.look(config, 0.0) == []
    change(files[0])
    assert watch.look(config, 0.5) == [], "not yet"
    assert watch.look(config, 1.0) == [], "seen once"
    change(files[1])
    assert watch.look(config, 2.0) == [], "the key came meanwhile"
    assert watch.look(config, 3.0) == [str(files[0]), str(files[1])]
    watch.note(config)
    assert [watch.look(config, at) for at in (4.0, 5.0, 6.0)] == [[], [], []]


def test_a_file_that_goes_and_one_that_comes_back(files: tuple[Path, Path]) -> None:
    watch, config = FileWatch(), config_of(files)
    watch.look(config, 0.0)
    files[1].unlink()
    assert [watch.look(config, at) for at in (1.0, 2.0)] == [[], [str(files[1])]]
    watch.note(config)
    files[1].write_text("again")
    assert [watch.look(config, at) for at in (3.0, 4.0)] == [[], [str(files[1])]]


def test_a_link_that_leads_elsewhere_is_a_change(files: tuple[Path, Path], tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    target.write_text("other")
    link.symlink_to(files[0])
    watch, config = FileWatch(), config_of((link, files[1]))
    watch.look(config, 0.0)
    link.unlink()
    link.symlink_to(target)
    assert [watch.look(config, at) for at in (1.0, 2.0)] == [[], [str(link)]]


def test_files_that_a_reload_brought_have_been_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    watch, config = FileWatch(), config_of(files)
    watch.look(config, 0.0)
    ca = tmp_path / "ca"
    ca.write_text("authority")
    new = msgspec.structs.replace(config, general=msgspec.structs.replace(config.general, tls_ca_cert=str(ca)))
    watch.note(config)
    change(files[0])  # behind the back of the reload
    watch.keep(new)
    assert [watch.look(new, at) for at in (1.0, 2.0)] == [[], [str(files[0])]]
    os.utime(ca, (1, 1))
    watch.note(new)
    assert [watch.look(new, at) for at in (3.0, 4.0)] == [[], []]
