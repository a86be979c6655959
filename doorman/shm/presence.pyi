import msgspec

from doorman.shm.table import Table

STATEMENT_BYTES: int

class Presence(msgspec.Struct, frozen=True):
    login: int = 0
    idle: int = 0
    active: int = 0
    waiting: int = 0
    flushed: int = 0
    named: int = 0
    unnamed: int = 0
    client_bytes: int = 0
    longest_wait: int = 0
    servers: int = 0
    oldest_active: int = 0
    outdated: int = 0
    statements: int = 0
    hits: int = 0
    misses: int = 0
    tls: int = 0

def presence(table: Table) -> list[Presence]: ...
def slot_statements(table: Table, slot: int) -> tuple[int, int, int]: ...
def held_statements(table: Table, pool: int) -> dict[int, int]: ...
def named_statements(table: Table, client: int) -> tuple[int, int]: ...
