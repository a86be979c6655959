"""What logins and openings look at of the process that they are part of. They stand below it, and it inherits this.

In the compiled form these are fields of C's: a look at a Python object's costs a login in the cold half a microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorman.config.schema import Config
from doorman.shm.table import Table
from doorman.workers.destination import Destinations
from doorman.workers.roster import Roster
from doorman.workers.routes import Routes

if TYPE_CHECKING:
    from doorman.workers.opening import Opening
    from doorman.workers.relay.relay import Relay


class Host:
    """What a process has."""

    config: Config
    table: Table
    relay: Relay
    pools: Roster
    routes: Routes
    destinations: Destinations
    openings: set[Opening]  # that are under way
    old_servers: set[tuple[str, int]]  # host and port of those that speak nothing newer than 3.0
    logs_logins: bool  # `log_client_connections`
