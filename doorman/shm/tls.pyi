import msgspec

from doorman.shm.table import Table

BUCKETS_US: tuple[int, ...]

class TlsCounters(msgspec.Struct, frozen=True):
    client_handshakes: int
    client_handshakes_12: int
    server_handshakes: int
    server_handshakes_12: int
    client_time: int
    server_time: int
    client_faults: tuple[int, ...]
    server_faults: tuple[int, ...]

class PoolTls(msgspec.Struct, frozen=True):
    connections: int
    handshakes: int
    errors: int
    time: int
    histogram: tuple[int, ...]

class TlsView(msgspec.Struct, frozen=True):
    version: int
    suite: int
    established_at: int
    records_in: int
    records_out: int

def reserve_handshake(table: Table, per_second: int) -> int: ...
def count_client_handshake(table: Table, version: int, took_us: int) -> None: ...
def count_client_fault(table: Table, fault: int) -> None: ...
def count_server_handshake(table: Table, pool: int, version: int, took_us: int) -> None: ...
def count_server_fault(table: Table, pool: int, fault: int) -> None: ...
def tls_counters(table: Table) -> TlsCounters: ...
def pool_tls(table: Table, pool: int) -> PoolTls: ...
def slot_tls(table: Table, slot: int) -> TlsView | None: ...
def client_tls(table: Table, client: int) -> TlsView | None: ...
