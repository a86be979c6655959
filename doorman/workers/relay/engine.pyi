"""Types of the relay's objects for Python code."""

from typing import Any

class Conn:
    fd: int

class Watcher(Conn):
    callback: Any

class Client(Conn):
    number: int
    pool: int
    session: Any
    settings: Any
    is_unix: bool
    closed: bool
    @property
    def is_gone(self) -> bool: ...
    @property
    def peer(self) -> bytes: ...

class Server(Conn):
    slot: int
