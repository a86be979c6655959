from doorman.shm.table import Table

REMOVED: tuple[str, str]

def find_unused_pool(table: Table) -> int: ...
def pool_generation(table: Table, number: int) -> int: ...
def change_pool(
    table: Table,
    number: int,
    *,
    session_mode: bool,
    pool_size: int,
    min_pool_size: int,
    max_opening: int,
    round_robin: bool,
    check_after_us: int,
    cleanup: bool,
    statements: bool,
    statement_limit: int,
    version: int,
) -> tuple[list[tuple[int, int]], int]: ...
def remove_pool(table: Table, number: int) -> tuple[list[tuple[int, int]], int]: ...
def collect_pool(table: Table, number: int, generation: int) -> bool: ...
def free_pool(table: Table, number: int) -> bool: ...
