from collections.abc import Sequence

import msgspec

from doorman.shm.table import Table

SQLSTATE_CLASSES: tuple[str, ...]
PARAMETER_SQLSTATES: tuple[str, ...]
STREAM_KINDS: tuple[str, ...]
PHASES: tuple[str, ...]
PHASE_SECONDS: tuple[float, ...]
CONNECTION_KINDS: tuple[str, ...]
QUERY_SECONDS: tuple[float, ...]
TRANSACTION_SECONDS: tuple[float, ...]
WAIT_SECONDS: tuple[float, ...]

class Totals(msgspec.Struct, frozen=True):
    transactions: int = 0
    queries: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    transaction_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    waits: int = 0
    errors: int = 0
    logins: int = 0
    login_failures: int = 0
    cancels: int = 0
    servers_opened: int = 0
    servers_closed: int = 0
    listens: int = 0
    errors_of_class: tuple[int, ...] = ...
    statement_hits: int = 0
    statement_misses: int = 0
    checks_known: int = 0
    checks_sent: int = 0
    opens_started: int = 0
    streams: tuple[int, ...] = ...
    streams_failed: tuple[int, ...] = ...
    streamed_bytes: tuple[int, ...] = ...
    tls_handshakes: int = 0
    tls_handshake_errors: int = 0
    tls_handshake_time: int = 0
    tls_histogram: tuple[int, ...] = ...
    gate_waits: int = ...
    parameter_errors: tuple[int, ...] = ...

class Averages(msgspec.Struct, frozen=True):
    transactions: int = 0
    queries: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    errors: int = 0
    transaction_us: int = 0
    query_us: int = 0
    wait_us: int = 0

class Percentiles(msgspec.Struct, frozen=True):
    query: tuple[int, ...] = ...
    transaction: tuple[int, ...] = ...
    wait: tuple[int, ...] = ...

class Cumulative(msgspec.Struct, frozen=True):
    query: tuple[int, ...] = ...
    transaction: tuple[int, ...] = ...
    wait: tuple[int, ...] = ...

class ProcessTotals(msgspec.Struct, frozen=True):
    connections: int
    plain: int
    encrypted: int
    cancels: int
    opens: tuple[tuple[int, ...], ...]
    open_time: tuple[int, ...]
    texts: int
    text_bytes: int
    loop_delay: int
    loop_delay_high: int
    texts_forgotten: int

def count_connection(table: Table, kind: int) -> None: ...
def count_opening(table: Table, slot: int) -> None: ...
def count_parameter_error(table: Table, pool: int, sqlstate: str) -> None: ...
def count_phase(table: Table, phase: int, elapsed: int) -> None: ...
def pool_totals(table: Table, pool: int) -> Totals: ...
def process_totals(table: Table, process: int) -> ProcessTotals: ...
def all_process_totals(table: Table) -> ProcessTotals: ...
def pool_percentiles(table: Table, pool: int) -> Percentiles: ...
def pool_times(table: Table, pool: int) -> tuple[Cumulative, Percentiles]: ...
def pool_cumulative(table: Table, pool: int) -> Cumulative: ...
def end_window(table: Table, pool: int) -> None: ...
def pool_averages(table: Table, pool: int) -> Averages: ...
def set_census(table: Table, states: Sequence[int]) -> None: ...
def get_census(table: Table) -> tuple[int, ...]: ...
