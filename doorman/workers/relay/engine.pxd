"""The objects of the relay, and what its parts may ask of the loop.

`Client` and `Server` are state; what happens to them is in `frontend` (bytes from clients), `backend` (bytes from
servers) and `upkeep` (servers without a client). Those modules know each other only through `Engine`, whose methods
the loop (`relay`) implements.
"""

cimport cython

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from doorman.shm.layout cimport ClientRow, CounterRow, PoolRow, SlotRow
from doorman.shm.table cimport Table
from doorman.workers.relay.buffer cimport Buffer
from doorman.workers.relay.link cimport Link
from doorman.workers.relay.outgoing cimport Outgoing
from doorman.workers.relay.pending cimport Pending
from doorman.workers.relay.replies cimport Replies
from doorman.workers.relay.statements cimport Named, Statement, Statements

cdef enum:
    MAX_MESSAGE = 268_435_456       # bytes, both directions (spec/protocol.md section 0)
    HOLD = 65_536                   # a message up to this size is forwarded whole, a larger one streams
    SCRATCH = 131_072               # bytes of one read
    HEAVY = 16_777_216              # bytes of texts remembered for what is owed to one client, before it is not read any more

cdef enum Kind:
    KIND_WATCHER = 0
    KIND_LISTENER = 1
    KIND_CLIENT = 2
    KIND_SERVER = 3

cdef enum Phase:                    # of a client
    PHASE_LOGIN = 0                 # its bytes go to `session`, a login
    PHASE_CONSOLE = 1               # its bytes go to `session`, a console
    PHASE_READY = 2
    PHASE_FAREWELL = 3              # only what is still to be written to it keeps it

cdef enum Stage:                    # of a server
    STAGE_NONE = 0                  # serves its client, or is idle
    STAGE_PROBE = 1                 # attached; answers a probe before the client's first message
    STAGE_SYNC = 2                  # attached; takes on the client's parameters
    STAGE_DRAIN = 3                 # its client went away: read what is still owed
    STAGE_ROLLBACK = 4
    STAGE_CLEAN = 5
    STAGE_CLOSING = 6               # said goodbye, waits for the end of the stream
    STAGE_LISTEN = 7                # spoke while idle
    STAGE_RESTORE = 8               # attached for a session; sets again what its client asked for at startup

cdef enum Dirt:                     # what a client may have left in a server's session
    DIRT_SETTINGS = 1
    DIRT_STATEMENTS = 2
    DIRT_CURSORS = 4
    DIRT_LISTEN = 8
    DIRT_TEMPORARY = 16
    DIRT_LOCKS = 32                 # session-level advisory locks
    DIRT_EVERYTHING = 64
    DIRT_CREATED = 128              # something was created: it may be temporary
    DIRT_NAMED = 512                # (beside DIRT_STATEMENTS) SQL has prepared something under the client's own name
    DIRT_CONNECTED = 1024           # it may have what nothing but its end takes back: connections (dblink), replication slots …
    DIRT_PLANS = 256                # plans, also those in functions, may hold what was read under settings of its own


cdef class Conn:
    cdef readonly int fd
    cdef int kind
    cdef uint32_t serial            # tells it from an earlier owner of the same fd
    cdef uint32_t armed             # epoll events it is registered for; 0 = not registered
    cdef readonly bint closed
    cdef bint edge                  # an event comes once for what arrives, not as long as it is unread
    cdef bint drained               # the last read took all that was there
    cdef Link tls                   # None: nothing is encrypted
    cdef Buffer inb                 # an incomplete message
    cdef Buffer outb                # what the peer has not taken yet, as it goes over the wire
    cdef object __weakref__


@cython.final
cdef class Watcher(Conn):
    cdef public object callback     # callback(epoll events)
    cdef bint stays                 # what it does gives uvloop nothing to do


@cython.final
cdef class Client(Conn):
    cdef readonly int number        # client row, -1: not admitted
    cdef ClientRow *row
    cdef readonly int pool          # pool row, -1 until logged in
    cdef PoolRow *pool_row
    cdef CounterRow *counters
    cdef int phase
    cdef bint session_mode
    cdef Server server
    cdef int parked                 # slot that is this client's but whose socket has not arrived; -1
    cdef bint skip_to_sync          # an error of ours inside a batch: drop messages to the next Sync
    cdef bint lingers               # it may be sending yet when its connection ends: it is read on until it has heard why
    cdef bint took_leave            # it sent Terminate: what it asked for before is to be completed
    cdef bint dropping              # the rest of the message under way is not wanted
    cdef char sending               # type of the message that was last sent on, whole or in part
    cdef bint extended              # the message that it waits with is of the extended protocol
    cdef bint to_process            # stands in the relay's list of clients to go on with
    cdef uint64_t body_left         # bytes of a large message that are still to come from it
    cdef public object session      # Login or Console
    cdef public object settings     # Settings that its servers are to have, or None
    cdef uint64_t settings_digest
    cdef int64_t asked_at           # when it began to need the server that it has or waits for
    cdef uint64_t plans_digest      # of those that plans in functions depend on
    cdef uint32_t standing_dirt     # what any of its statements may leave, with these settings
    cdef readonly bint is_unix
    cdef bint counted               # among the clients of this process
    cdef bint suspended             # its login waits for a coroutine or for time to pass: what it sends is kept
    cdef bint follows               # transaction mode: each message's answer is followed (`replies`)
    cdef bint renames               # its prepared statements are renamed and shared
    cdef bint fresh_unnamed         # the unnamed statement was parsed since the last Sync
    cdef uint64_t planner           # digest of the settings that a plan depends on
    cdef Statement unnamed
    cdef bint unnamed_told          # the client was sent a description of the unnamed statement
    cdef uint32_t unnamed_shape     # of the rows by that description
    cdef uint32_t unnamed_types     # and of the parameters' types,
    cdef bytes unnamed_parameters   # as it listed them
    cdef dict deeds                 # portal -> what its Execute does besides (`note_deed`); None while there are none
    cdef object last_bound          # what the unnamed portal runs: Named, or the unnamed Statement; None: nothing of ours
    cdef dict portals               # likewise for portals with names, of this transaction; None while there are none
    cdef dict names                 # name -> Named; None while there are none
    cdef uint64_t named_bytes       # of them, when they were last counted
    cdef Named last_named
    cdef bytes begin                # Query that opens the transaction which the client believes to be in; None
    cdef bint begin_failed          # and that has failed meanwhile
    cdef bytes check                # Query message that is answered from memory; None
    cdef object followed            # Followed: parameters that it was told since its login; None
    cdef bytes learned              # ParameterStatus messages that it was greeted with beside those of all; or None
    cdef object startup             # Settings that it asked for at startup, or None
    cdef uint64_t gathering         # bytes of a message that is to be whole before it is looked at; 0 = none


@cython.final
cdef class Server(Conn):
    cdef readonly int slot
    cdef uint32_t generation
    cdef SlotRow *row
    cdef Client client
    cdef int stage
    cdef uint32_t passed_by         # events in a row that were another process's
    cdef bint hung_up               # one of them announced the end of the stream
    cdef char status                # of the last ReadyForQuery: I T E
    cdef Pending pending
    cdef Replies replies
    cdef uint64_t body_left         # bytes of a large message that are still to come from it
    cdef int streaming              # kind of the message that is passed on in pieces (note_stream), 0 = none
    cdef uint64_t stream_bytes      # of that message
    cdef uint64_t stream_left       # of it, and what its client has not taken yet, when that became less the last time
    cdef int64_t stream_moved       # when that was; 0 = not looked at yet
    cdef bint keeps_back            # and that are not for the client
    cdef bint holding               # its client's next message waits for answers (must_hold)
    cdef bint announcing            # and it is because of an Execute that may begin a COPY (rule 1 of copying)
    cdef Statement verified         # was prepared anew just now, for its rows looked other than its client was told
    cdef bint verifying             # one of them is a Describe of ours (heal)
    cdef bint went_back             # RESET, DISCARD ALL or SET … DEFAULT was among what its client ran: what was asked for
                                    # at startup is to be set again
    cdef object way_back            # WayBack: which of it, by the texts; None: nobody knows (rule 6 of upkeep)
    cdef uint64_t private_planner   # while `sets`: digest of settings that nobody else has
    cdef bint sets                  # a message behind the last Sync may change how texts are parsed
    cdef uint64_t local_planner     # digest of the texts that have set what is not reported, in this transaction
    cdef uint32_t explained         # tags of SET and RESET that are to come, and have been counted in
    cdef bint changes               # DDL of the transaction: all servers prepare anew when it is over (rule 1 of heal)
    cdef bint lasts                 # and COMMIT has made it last, whatever transaction is open now
    cdef bint altered               # and its tag came just now: this one prepares anew at once
    cdef uint32_t temporary         # temporary things that texts of the transaction make for sure, whose tags are to come
    cdef bint makes                 # a CREATE … AS is under way: its tag will be that of a SELECT
    cdef char description           # T or n (RowDescription, NoData): of what runs its client was told so; 0: nothing
    cdef bint unexplained           # something was set, or taken back, that is not in `local_planner`
    cdef bint crowded               # so much is owed to its client that it is not read until there is less
    cdef uint64_t heavy             # bytes of the texts that are remembered for what is owed
    cdef bint owns_unnamed          # without renaming: the unnamed statement is its present client's
    cdef bint executed              # an Execute was sent since the last Sync
    cdef bint touchy                # a statement under way may change what later ones meet
    cdef Buffer replay              # the batch under way, while it may have to be sent again (heal)
    cdef bint replaying             # `replay` is being filled, or complete and of use
    cdef bint replay_sealed         # complete: its Sync is in it
    cdef size_t replay_from         # where in `to_server` the part of it begins that is being put together
    cdef Statement replayed
    cdef bytes kept                 # goes out in front of the next message: a notice of ours, a message written anew, or
                                    # the ParameterDescription of a Describe that may still turn out to be stale
    cdef bytes refused              # the error for which a statement could not be lent to the Query under way
    cdef bint healing               # it will be sent again at the next ReadyForQuery
    cdef bint begin_fails           # the Query of ours under way is to fail
    cdef bytearray capture          # the answer to a check query, so far
    cdef uint32_t dirt
    cdef uint32_t cancels           # requests sent to stop what it runs for nobody
    cdef bint failed                # an ErrorResponse came in this stage; in NONE: since `way_back` began, or in REPLY_RESTORE
    cdef bint hopeless              # it is to be lost as soon as its client was given what came before
    cdef bint said_fatal            # its last words were an ErrorResponse that ends the connection
    cdef int64_t started            # when the statement under way began
    cdef int64_t transaction_started
    cdef int64_t deadline           # of the stage
    cdef uint32_t drops_types       # `changes`, and functions may hold types that there are no more
    cdef bint limited               # it was sent an Execute of some rows only, and no Sync since
    cdef bint condemned             # it ends when its client's transaction is over (rule 5 of pending)
    cdef uint32_t settling          # Closes of ours that are under way to tell which Syncs were answered (settle); 0 = none
    cdef bint skips                 # when those are answered, the client's messages are dropped to its next Sync
    cdef uint32_t on_trial          # a Sync of ours is under way that tells whether everything is answered (settle): for so
                                    # many seconds, and one
    cdef uint64_t moved             # bytes in both directions when that was last looked at
    cdef object reported            # ParameterStatus seen in STAGE_SYNC and STAGE_RESTORE
    cdef bint parses_shared         # since its last ReadyForQuery it has parsed, behind others, what is shared
    cdef bint restore_due           # STAGE_RESTORE begins when its client has taken what is written to it
    cdef bint restores_again        # in STAGE_RESTORE or REPLY_RESTORE: the first attempt was cancelled, it seems
    cdef uint64_t write_left        # bytes of the only message under way that it had not taken at the last look
    cdef int64_t write_moved        # when these had become fewer; 0: there are none
    cdef set lent                   # names of its client's under which it has statements besides; None (sql_names)
    cdef list forgetting            # names that the Query under way deallocates, in order; None


cdef class Engine:
    cdef Table table
    cdef char *scratch
    cdef Outgoing to_server
    cdef Outgoing to_client
    cdef Statements statements
    cdef dict checks                # (pool, digest of settings) -> (check query, its answer)
    cdef dict check_messages        # pool -> the check query as a message
    cdef uint64_t gather_limit      # bytes of messages being gathered, in all processes
    cdef uint64_t nonce             # for statements that nobody else may share
    cdef int64_t now                # microseconds; read once for a few events, not for each
    cdef bint release_early         # test only: proves that the torture test can fail

    cdef bint attach(self, Client client) except -1
    cdef int retire(self, int pool) except -1
    cdef int release(self, Server server) except -1
    cdef int forward(self, Server server, const char *data, size_t length) except -1
    cdef int answer(self, Client client, const char *data, size_t length) except -1
    cdef int end_client(self, Client client) except -1
    cdef int lose_server(self, Server server) except -1
    cdef int close_server(self, Server server, bint polite) except -1
    cdef int serve(self, Client client) except -1
    cdef int synced(self, Server server) except -1
    cdef int refuse(self, Client client, str severity, str sqlstate, str message) except -1
    cdef int request_cancel(self, Server server) except -1
    cdef int note_deadline(self, Server server, int64_t deadline) except -1
    cdef int ready_again(self, Server server) except -1
    cdef int queue(self, Client client) except -1
    cdef int open(self, int pool, int slot) except -1
    cdef int say_goodbye(self, Server server, bint polite) except -1
    cdef int adopt_orphan(self, int slot) except -1
    cdef int finish_login(self, Client client) except -1
    cdef int farewell(self, Client client) except -1
    cdef int look_at_waiters(self) except -1
    cdef int give_known(self, Server server) except -1
    cdef int note_listen(self, Client client) except -1
    cdef int follow_parameter(self, Client client, bytes report) except -1
    cdef int log_parameter(self, Client client, bytes report) except -1
