import msgspec

from doorman.shm.table import Table

COUNTS: tuple[str, ...]
DROPPED: tuple[str, ...]

class LookUpView(msgspec.Struct, frozen=True):
    database: str
    generation: int
    cache_entries: int
    counts: dict[str, int]

def open_row(table: Table, database: str, anew: bool) -> bool: ...
def close_row(table: Table, database: str) -> None: ...
def set_entries(table: Table, database: str, entries: int) -> None: ...
def count_look_up(table: Table, database: str, what: str) -> None: ...
def look_up_rows(table: Table) -> list[LookUpView]: ...
