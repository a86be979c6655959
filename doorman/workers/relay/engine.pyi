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
    @property
    def is_gone(self) -> bool: ...

class Server(Conn):
    slot: int
