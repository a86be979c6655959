"""Looks now and then whether the files for TLS have other contents than when they were read last. In the master.

Rules
1. Only `stat` is called, at most once in `tls_watch_interval`; nothing is looked at where that is 0.
2. A change counts when it was seen twice in a row: who writes a certificate and then its key is not disturbed between.
3. It counts once. What was refused is looked at again when it changes again.
"""

from __future__ import annotations

from pathlib import Path

from doorman.config.resolve import resolve_server_tls
from doorman.config.schema import Config

Stamp = tuple[int, int, int, int]
"""Device, inode, size, time of modification (ns): another file of the same name differs in one of them."""

Stamps = dict[str, Stamp | None]


class FileWatch:
    """`note` what is read, then `look` in every round."""

    def __init__(self) -> None:
        self.next_at: float | None = None
        self.read: Stamps | None = None
        self.seen: Stamps = {}

    def look(self, config: Config, now: float) -> list[str]:
        """Names of the files that are to be read. now: time.monotonic."""
        seconds = config.general.tls_watch_interval / 1000
        if not seconds:
            self.next_at = None
            return []
        if self.next_at is not None and now < self.next_at:
            return []
        self.next_at = now + seconds
        stamps = stamps_of(config)
        if self.read is None:
            self.read = stamps
        is_at_rest, self.seen = stamps == self.seen, stamps
        return [path for path in stamps if stamps[path] != self.read.get(path)] if is_at_rest else []

    def note(self, config: Config) -> None:
        """The files are about to be read."""
        self.read = stamps_of(config) if config.general.tls_watch_interval else None

    def keep(self, config: Config) -> None:
        """Another configuration holds: files that it alone names have just been read."""
        if self.read is not None:
            self.read = stamps_of(config) | self.read


def stamps_of(config: Config) -> Stamps:
    """All files that `read_materials` reads; None for one that is not there."""
    return {path: stamp_of(path) for path in files_of(config)}


def files_of(config: Config) -> list[str]:
    """Their names, each once."""
    general = config.general
    names = [general.tls_certificate, general.tls_private_key, general.tls_ca_cert, general.auth_ident_file]
    for pool in config.pools.values():
        tls = resolve_server_tls(general, pool)
        names += [tls.ca_cert, tls.certificate, tls.private_key]
    return list(dict.fromkeys(name for name in names if name is not None))


def stamp_of(path: str) -> Stamp | None:
    """Symbolic links are followed: Kubernetes renews files by changing one."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
