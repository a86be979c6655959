"""Which actions there are and how often each is chosen."""

from __future__ import annotations

import random

from tests.torture import actions_copy as copy
from tests.torture import actions_extended as extended
from tests.torture import actions_fault as fault
from tests.torture import actions_simple as simple
from tests.torture.client import Action, Chooser

WEIGHTS: dict[Action, float] = {
    simple.select_one: 10,
    simple.select_many: 4,
    simple.select_wide: 1,
    simple.read_slowly: 0.5,
    simple.several_statements: 3,
    simple.statements_with_error: 2,
    simple.empty_query: 1,
    simple.pipelined_queries: 3,
    simple.raise_error: 2,
    simple.divide_by_zero: 3,
    simple.raise_notices: 2,
    simple.show_own_parameters: 2,
    simple.check_no_leak: 3,
    simple.set_in_session: 1,
    simple.transaction: 5,
    simple.failed_transaction: 2,
    simple.savepoints: 1,
    simple.cursor: 1,
    simple.sql_prepare: 1,
    simple.call_function: 1,
    simple.sleep_a_little: 1,
    extended.unnamed_statement: 4,
    extended.shared_text: 4,
    extended.binary_parameters: 2,
    extended.large_parameter: 1,
    extended.named_statement: 8,
    extended.close_statement: 1,
    extended.statement_in_transaction: 3,
    extended.pipeline_one_sync: 3,
    extended.pipeline_many_syncs: 3,
    extended.pipeline_with_error: 3,
    extended.failed_parse: 1,
    extended.flush_before_sync: 2,
    extended.portal_in_steps: 1,
    extended.no_data: 1,
    extended.mixed_protocols: 2,
    extended.only_sync: 1,
    copy.copy_out: 2,
    copy.copy_in: 2,
    copy.copy_fails: 1,
    copy.copy_bad_data: 1,
    copy.copy_in_extended: 1,
}

FAULT_WEIGHTS: dict[Action, float] = {
    fault.cancel_own: 1.5,
    fault.cancel_in_transaction: 1,
    fault.cancel_too_late: 1,
    fault.cancel_with_wrong_secret: 0.5,
    fault.statement_timeout: 1,
    fault.vanish_in_result: 0.7,
    fault.vanish_before_result: 0.7,
    fault.vanish_in_transaction: 0.7,
    fault.terminate_in_transaction: 0.5,
    fault.vanish_in_copy_in: 0.5,
    fault.vanish_in_copy_out: 0.5,
    fault.vanish_after_parse: 0.7,
    fault.vanish_before_sync: 0.7,
    fault.vanish_in_message: 0.5,
    fault.vanish_in_login: 0.5,
    fault.leave_and_come_back: 1,
}


# Actions with more than one Sync or Query in flight.
PIPELINES: set[Action] = {
    simple.pipelined_queries,
    extended.pipeline_many_syncs,
    extended.pipeline_with_error,
    extended.no_data,
    extended.mixed_protocols,
}


def chooser(*, with_faults: bool, with_pipelines: bool, only: list[str]) -> Chooser:
    """A function that picks an action; `only` limits it to these names."""
    weights = {**WEIGHTS, **(FAULT_WEIGHTS if with_faults else {})}
    if not with_pipelines:
        weights = {action: weight for action, weight in weights.items() if action not in PIPELINES}
    chosen = {action: weight for action, weight in weights.items() if not only or action.__name__ in only}
    if not chosen:
        known = ", ".join(sorted(action.__name__ for action in weights))
        raise ValueError(f"no such action; there are: {known}")
    actions, chances = list(chosen), list(chosen.values())

    def choose(rng: random.Random) -> Action:
        return rng.choices(actions, chances)[0]

    return choose
