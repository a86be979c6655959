import msgspec

from doorman.shm.table import Table

SLOT_STATES: tuple[str, ...]
CLIENT_STATES: tuple[str, ...]
ROLES: tuple[str, ...]

class PoolView(msgspec.Struct, frozen=True):
    number: int
    database: str
    user: str
    pool_mode: str
    pool_size: int
    min_pool_size: int
    paused: bool
    disabled: bool
    epoch: int
    idle: int
    busy: int
    opening: int
    closing: int
    waiting: int
    failed_at: int
    failure_sqlstate: str
    failure: str

class SlotView(msgspec.Struct, frozen=True):
    number: int
    pool: int
    state: str
    owner: int
    client: int
    home: int
    generation: int
    epoch: int
    backend_pid: int
    opened_at: int
    used_at: int
    active_since: int
    lifetime: int
    idle_timeout: int
    transactions: int
    queries: int
    bytes_sent: int
    bytes_received: int
    uses: int
    application_name: str
    tls: bool

class ClientView(msgspec.Struct, frozen=True):
    number: int
    connection_id: int
    worker: int
    pool: int
    slot: int
    state: str
    family: int
    address: bytes
    port: int
    tls: bool
    connected_at: int
    wait_since: int
    wait_total: int
    wait_max: int
    transactions: int
    queries: int
    errors: int
    admin: bool
    application_name: str
    database: str
    user: str

class ProcessView(msgspec.Struct, frozen=True):
    number: int
    pid: int
    role: str
    generation: int
    heartbeat: int
    asleep: bool

def set_up_pool(
    table: Table,
    number: int,
    *,
    database: str,
    user: str,
    session_mode: bool,
    pool_size: int,
    min_pool_size: int,
    max_opening: int,
    round_robin: bool,
    check_after_us: int,
    cleanup: bool = True,
    statements: bool = False,
    statement_limit: int = 0,
    version: int = 0,
) -> None: ...

class TooManyParameters(ValueError): ...

def set_parameters(table: Table, number: int, messages: bytes, epoch: int | None = None) -> None: ...
def get_parameters(table: Table, number: int) -> bytes: ...
def get_failure(table: Table, number: int) -> tuple[str, str]: ...
def pool_rows(table: Table) -> list[PoolView]: ...
def slot_rows(table: Table) -> list[SlotView]: ...
def slot_generations(table: Table, slots: list[int]) -> list[int]: ...
def renew_generation(table: Table, slot: int) -> int: ...
def server_peers(table: Table) -> list[tuple[int, bytes]]: ...
def client_address(table: Table, number: int) -> bytes: ...
def client_row(table: Table, number: int) -> ClientView: ...
def client_rows(table: Table) -> list[ClientView]: ...
def process_rows(table: Table) -> list[ProcessView]: ...
def regions(table: Table) -> list[tuple[str, int, int, int]]: ...
def longest_wait_us(table: Table, number: int) -> int: ...
