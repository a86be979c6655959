"""The layout of the shared segment: rows, fields, and who may write them. `docs/shared-table.md` has the picture.

Rules
1. Any change of a struct or an enum here is a new LAYOUT_VERSION.
2. Times are microseconds of CLOCK_MONOTONIC (the same in all processes of a machine) unless a name says otherwise.
3. Indices are row numbers, NONE (-1) is "no row". A row number keeps its meaning while anything names it; a pool row
   that is given to another pool has another `generation` (lifecycle.pxd).
4. State words are the truth. Lists (idle, waiters, free rows) are conveniences that can be rebuilt from them.
5. Rows are whole cache lines (64 bytes), so that processes do not fight over neighbours; what a transaction touches
   stands first.
6. A field has one guard, named beside it: [pool] the pool's lock, [clients] the header's clients lock,
   [users] the header's users lock, [worker] written by one worker only, [atomic] atomic operations, [once] written before the row is shared.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *sem, int pshared, unsigned int value)
    int sem_post(sem_t *sem)

cdef enum:
    LAYOUT_VERSION = 18
    NONE = -1
    NAME_BYTES = 128            # database, user, application_name: bytes kept, terminating NUL included
    SECRET_BYTES = 256          # protocol 3.2: a cancel secret has 4 to 256 bytes
    CLIENT_SECRET_BYTES = 32    # what we hand out ourselves
    PARAMETER_BYTES = 16384     # ParameterStatus messages of a pool, as they go to a client at login
    STATEMENT_UNIT = 16         # bytes; in which the statements of a client are counted
    FAILURE_BYTES = 384         # message of the last failed attempt to open a server
    MAIL_SUMMARY_WORDS = 16     # 64 slots a word, 64 words a summary word: 65,536 slots at most
    REFUSAL_CAUSES = 16         # of logins, see refusals.pyx
    LOOK_UP_ROWS = 256          # databases with auth_query
    SOURCE_ROWS = 4096          # of refused logins: a power of two
    KEY_BYTES = 32              # of SCRAM-SHA-256's StoredKey and ClientKey
    TLS_FAULTS = 24             # kinds of TLS errors (doorman/tls/faults.py)
    TLS_SECONDS_BUCKETS = 11    # 1, 5, 10, 25, 50, 100, 250 ms, 0.5, 1, 2.5 s, and longer
    HISTOGRAM_BUCKETS = 2048    # 64 a power of two, 1 us to 2^37 us
    SQLSTATE_CLASSES = 6        # 08, 53, 57, 25P02, 26000, all others
    STREAM_KINDS = 3            # DataRow, CopyData, FunctionCallResponse
    OPEN_PHASES = 4             # connect, TLS, authentication, the rest of the login
    OPEN_BUCKETS = 6            # 1 ms, 10 ms, 100 ms, 1 s, 10 s, longer
    SOCKET_STATES = 34          # columns of SHOW SOCKETS

cdef enum SlotState:
    SLOT_FREE = 0
    SLOT_OPENING = 1
    SLOT_IDLE = 2
    SLOT_ACTIVE = 3
    SLOT_RESETTING = 4
    SLOT_GRANTED = 5
    SLOT_CLOSING = 6

cdef enum ClientState:
    CLIENT_FREE = 0
    CLIENT_LOGIN = 1
    CLIENT_IDLE = 2
    CLIENT_ACTIVE = 3
    CLIENT_WAITING = 4

cdef enum WaitState:
    WAIT_NO = 0
    WAIT_QUEUED = 1             # in the pool's queue
    WAIT_GRANTED = 2            # a slot in state GRANTED names this client
    WAIT_FAILED = 3             # taken out of the queue: no server can be had (the pool row says why)
    WAIT_CANCELLED = 4          # taken out of the queue by a cancel request

cdef enum:                          # ClientRow.preparing: is a server being made fit for what the client has sent?
    PREPARING_NO = 0
    PREPARING_YES = 1               # nothing of it was sent to a server
    PREPARING_CANCELLED = 2         # and nothing shall be: a cancel request came

cdef enum PoolState:
    POOL_UNUSED = 0
    POOL_LIVE = 1
    POOL_REMOVED = 2            # takes nobody in and lends nothing; its row is free when nobody names it any more

cdef enum ProcessRole:
    ROLE_NONE = 0
    ROLE_WORKER = 1
    ROLE_KEEPER = 2

cdef enum Attention:
    ATTEND_WAITERS = 1          # a waiter of this process was failed or cancelled
    ATTEND_POOLS = 2            # a pool may need a server opened
    ATTEND_CONDEMNED = 4        # a client of this process is to be sent away

cdef struct Lock:
    uint32_t owner              # [atomic] pid of the holder, 0 = free
    uint32_t sleepers           # [atomic] 1: somebody may be asleep on the semaphore
    sem_t semaphore

cdef struct TlsDirection:           # one direction of an encrypted connection
    uint64_t sequence               # of the next record
    uint64_t explicit_base          # TLS 1.2 with AES-GCM: explicit nonce of record 0; each record has one more
    uint32_t epoch                  # counts changes of the key
    uint32_t owes_update            # outbound: the peer asked for a KeyUpdate, which goes before the next record
    uint8_t iv[12]                  # TLS 1.2 with AES-GCM: 4 bytes are used
    uint8_t spare[12]
    uint8_t key[32]
    uint8_t secret[48]              # TLS 1.3: the current traffic secret, which the next key is derived from

cdef struct TlsRow:                 # written by whoever may touch the socket now; zero where the connection is plain
    uint32_t version                # 0x0303, 0x0304; 0 = not encrypted. Written last, cleared first
    uint32_t suite                  # IANA number of the cipher suite
    int64_t established_at
    uint8_t spare[48]
    TlsDirection inbound
    TlsDirection outbound

cdef struct TlsCounterRow:          # one for each process, [worker] throughout
    uint64_t client_handshakes
    uint64_t client_handshakes_12   # of these with TLS 1.2
    uint64_t server_handshakes
    uint64_t server_handshakes_12
    uint64_t client_time            # microseconds from the first byte of a handshake to its last
    uint64_t server_time
    uint64_t client_faults[24]      # by kind (doorman/tls/faults.py)
    uint64_t server_faults[24]
    uint64_t spare[2]

cdef struct Header:
    uint64_t magic
    uint32_t layout_version
    uint32_t n_processes
    uint32_t n_pools
    uint32_t pools_high             # [atomic] pool rows ever used: readers need look no further
    uint32_t n_slots
    uint32_t n_clients
    uint32_t master_pid
    uint64_t total_bytes
    uint64_t next_connection_id     # [atomic]
    int64_t started_at
    int64_t started_wall_us         # microseconds since 1970
    Lock clients_lock
    uint32_t max_connections        # [atomic] admission limit, follows the configuration
    uint32_t clients_used           # [clients] rows that are not CLIENT_FREE
    uint32_t clients_high           # [clients] rows ever used: readers need look no further
    int32_t clients_free            # [clients] head of the free rows' list
    uint32_t statement_capacity     # prepared statements that the set of a slot has room for
    uint32_t n_users
    int32_t users_writing           # [users] user row that is just being written, NONE; repair wipes it
    Lock users_lock
    int64_t next_handshake          # [atomic] when the next client may start a TLS handshake (tls_rate_limit_per_second)
    uint32_t phase                  # [atomic] of the pooler: 0 starting, 1 open, 2 draining; the master writes it

cdef struct ProcessRow:
    uint32_t pid                    # [once]
    uint32_t role                   # [once]
    uint32_t generation             # [once] how many processes have had this row
    uint32_t asleep                 # [atomic] 1 while it may sleep: who gives it work then writes its eventfd
    uint32_t attention              # [atomic] Attention bits
    int64_t heartbeat               # [worker]
    uint64_t mail_summary[16]       # [atomic] bit w of word s: word 64*s+w of the mailbox has bits
    uint64_t refusals[16]           # [worker] logins refused by all processes that had this row, by cause
    uint8_t spare[96]

cdef struct PoolRow:
    int32_t idle_head               # [pool] most recently used (the first cache line is what each transaction writes)
    int32_t idle_tail               # [pool]
    int32_t wait_head               # [pool] oldest waiter (client row)
    uint32_t n_idle                 # [pool]
    uint32_t n_busy                 # [pool] ACTIVE + GRANTED + RESETTING
    uint32_t paused                 # [pool]
    Lock lock
    uint32_t state                  # [pool]
    uint32_t epoch                  # [pool] RECONNECT counts it up
    int64_t check_after             # [pool] idle longer: probe before use; 0 = never
    uint32_t round_robin            # [pool] 1: oldest idle server first
    uint32_t pool_size              # [pool]
    int32_t wait_tail               # [pool]
    uint32_t n_waiting              # [pool]
    uint64_t next_ticket            # [pool]
    uint32_t n_opening              # [pool]
    uint32_t n_closing              # [pool]
    uint32_t session_mode           # [pool]
    uint32_t cleanup                # [pool] cleanup_server_connections
    uint32_t min_pool_size          # [pool]
    uint32_t max_opening            # [pool] servers being opened at once
    uint32_t statements             # [pool] 1: prepared statements are renamed and shared
    uint32_t statement_limit        # [pool] server_prepared_statements_cache_size
    uint32_t statement_epoch        # [pool] counts up when a plan was found stale: servers drop all they hold
    uint32_t generation             # [pool] how many pools have had this row
    int64_t failed_at               # [pool] when the last attempt to open a server failed, 0 = the last one succeeded
    char failure_sqlstate[8]        # [pool]
    char failure[384]               # [pool]
    uint32_t parameters_length      # [pool] 0 = not known yet
    uint32_t server_version         # [pool]
    char parameters[16384]          # [pool]
    char database[128]              # [once] for each generation
    char user[128]                  # [once]
    uint32_t version                # [pool] of what its servers are opened with: only who knows that may open one
    uint32_t parameters_version     # [pool] `version` of the server that `parameters` are from
    uint32_t parameters_epoch       # [pool] and its `epoch`: RECONNECT has them asked for anew
    uint32_t disabled               # [pool] 1: takes no new clients (DISABLE)
    uint32_t catalog                # [pool] digest of its servers' database: pools of one share what DDL changes
    uint8_t spare[4]

cdef struct SlotRow:
    uint32_t state                  # [pool]; FREE -> OPENING by compare-and-swap
    int32_t pool                    # [pool]
    int32_t owner                   # [pool] process row that may touch the socket now
    int32_t client                  # [pool] client row that it serves
    int32_t home                    # [pool] process row whose epoll watches it while idle
    uint32_t generation             # [pool] counts the connections that had this row
    uint32_t epoch                  # [pool]
    int32_t next                    # [pool] idle list
    int32_t previous                # [pool]
    int32_t canceller               # [pool] process row whose cancel request is on its way to this server
    uint32_t held                   # [pool] was given back meanwhile: the canceller gives it on when it is done
    uint32_t running                # [worker] 1 while a statement runs on it
    int64_t used_at                 # [pool] last given back
    int64_t active_since            # [pool]
    uint64_t uses                   # [pool] (second cache line from here on)
    uint64_t parameter_digest       # [worker] (the owner)
    uint64_t transactions           # [worker]
    uint64_t queries                # [worker]
    uint64_t bytes_sent             # [worker]
    uint64_t bytes_received         # [worker]
    uint64_t served                 # [worker] connection_id of the last client, 0 = none yet
    int32_t served_row              # [worker] and its row, which may have another client since
    uint32_t claim                  # [atomic] pid of the process that is just taking this FREE row
    int64_t opened_at               # [once] when the attempt to connect began (third cache line from here on)
    int64_t lifetime                # [once] jittered, 0 = none
    int64_t idle_timeout            # [once] jittered, 0 = none
    uint32_t backend_pid            # [once]
    uint32_t secret_length          # [once]
    uint32_t tls                    # [once] 1: encrypted, its keys are in `slot_tls`
    uint16_t peer_length            # [once] of the address that its host name was found to have, 0 = no name or TCP
    uint16_t to_check               # [pool], [worker] 1: it was idle for long when it was lent, and has said nothing since
    uint8_t peer[16]                # [once] that address, in network order
    uint64_t plans_digest           # [worker] (the owner) of the settings in force, those that plans depend on
    uint8_t secret[256]             # [once]

cdef struct ClientRow:
    uint32_t state                  # [clients] FREE and not FREE; between the others [worker]
    int32_t worker                  # [once]
    int32_t pool                    # [worker] NONE before login and on the console
    int32_t slot                    # [pool]
    uint32_t wait_state             # [pool]
    int32_t wait_next               # [pool]
    int32_t wait_previous           # [pool]
    int32_t next_free               # [clients]
    uint64_t wait_ticket            # [pool]
    int64_t wait_since              # [pool]
    int64_t state_since             # [worker]
    uint64_t transactions           # [worker]
    uint64_t queries                # [worker] (second cache line from here on)
    uint64_t connection_id          # [once]
    int64_t connected_at            # [once]
    uint64_t errors                 # [worker]
    uint64_t wait_total             # [worker] microseconds
    uint64_t wait_max               # [worker] microseconds
    uint32_t cancel_pid             # [worker]
    uint32_t preparing              # [atomic] see PREPARING_*
    uint8_t cancel_secret[32]       # [worker]
    uint16_t port                   # [once] 0 on a Unix socket
    uint8_t family                  # [once] 4, 6, or 0 = Unix socket
    uint8_t tls                     # [worker]
    uint8_t address[16]             # [once] network order
    uint32_t named_statements       # [worker] counted once a second
    uint32_t statement_units        # [worker] likewise: texts and names of its statements, in STATEMENT_UNIT bytes
    uint8_t has_unnamed             # [worker] likewise: an unnamed statement
    uint8_t has_flushed             # [worker] it has used Flush
    uint8_t admin                   # [worker] 1: console
    uint8_t cancel_length           # [worker]
    uint64_t condemned              # [atomic] its own connection_id: it is to be sent away (KILL)
    char application_name[128]      # [worker]
    char database[128]              # [worker] console only; others have their pool's
    char user[128]                  # [worker] console only

cdef struct CounterRow:             # one for each (pool, process), [worker] throughout
    uint64_t transactions
    uint64_t queries
    uint64_t bytes_received         # from PostgreSQL
    uint64_t bytes_sent             # to PostgreSQL
    uint64_t transaction_time       # microseconds
    uint64_t query_time
    uint64_t wait_time
    uint64_t waits
    uint64_t errors
    uint64_t logins
    uint64_t login_failures
    uint64_t cancels
    uint64_t servers_opened
    uint64_t servers_closed
    uint64_t listens                # LISTEN in transaction mode
    uint64_t errors_of_class[6]     # by SQLSTATE, see SQLSTATE_CLASSES
    uint64_t statement_hits         # the server held the prepared statement already
    uint64_t statement_misses       # it had to be prepared first
    uint64_t checks_known           # check queries answered from memory
    uint64_t checks_sent
    uint64_t opens_started          # attempts to open a server
    uint64_t streams[3]             # messages passed on in pieces, see STREAM_KINDS
    uint64_t streams_failed[3]
    uint64_t streamed_bytes[3]
    uint64_t tls_handshakes         # with servers
    uint64_t tls_handshake_errors
    uint64_t tls_handshake_time     # microseconds
    uint64_t tls_histogram[11]      # handshakes with servers by time (TLS_SECONDS_BUCKETS)
    uint64_t gate_waits             # clients who found room for a server, but `max_opening` were being opened
    uint64_t parameter_errors[4]    # startup parameters that PostgreSQL refused, see PARAMETER_SQLSTATES
    uint64_t spare[2]
    uint64_t query_histogram[2048]
    uint64_t transaction_histogram[2048]
    uint64_t wait_histogram[2048]

cdef struct UserRow:                # a SCRAM key that some client proved; users.pxd has the rules
    uint32_t state                  # [users] 0: free and all zeros, 1: held
    uint32_t spare_word
    int64_t used_at                 # [users]
    uint8_t stored_key[32]          # [users] SHA-256 of the client key: public, so to speak; what rows are found by
    uint8_t client_key[32]          # [users] secret: opens servers whose verifier has that StoredKey
    uint8_t spare[48]

cdef struct LookUpRow:              # the look-ups of one database with auth_query; look_ups.pyx
    uint32_t state                  # [keeper] 0: unused
    uint32_t generation             # [keeper] counts up when the numbers begin anew
    uint64_t entries                # [keeper] users remembered now
    uint64_t counts[22]             # [atomic]
    char database[128]              # [keeper]

cdef struct SourceRow:              # who was refused, and when the log said so; refusals.pyx
    uint64_t seen                   # [atomic] 32 bits that name the source, 32 of time in 10 ms
    uint64_t left_out               # [atomic] refusals since then that were not logged
    uint8_t spare[48]

cdef struct ProcessCounterRow:      # one for each process, [worker] throughout
    uint64_t connections            # accepted
    uint64_t plain                  # whose startup packet came in plain text
    uint64_t encrypted              # whose SSLRequest was taken up
    uint64_t cancels                # cancel requests
    uint64_t opens[4][6]            # phases of opening servers: how many took how long
    uint64_t open_time[4]           # microseconds
    uint64_t texts                  # statement texts that the process remembers
    uint64_t text_bytes
    int64_t loop_delay              # microseconds that the last tick came late
    int64_t loop_delay_high         # largest of late, decaying
    uint64_t texts_forgotten        # to make room for others
    uint64_t gathered               # bytes of large messages that are being gathered (max_memory_usage)
    uint32_t clients                # that it has, logged in or not (relay/accepting.pyx, rule 4)
    uint32_t offered                # [atomic] clients that other workers have handed to it, ever
    uint32_t taken                  # and that it has taken
    uint32_t resting                # 1: it has no descriptor for a client

cdef struct WindowRow:              # one for each pool, written by the keeper when a statistics window ends
    int64_t began_at                # of the window that is running
    uint64_t turns                  # windows that ended
    uint32_t older                  # which half of the `_base` arrays is the older one
    uint32_t writing                # odd while the keeper writes
    uint64_t transactions           # totals at the end of the last window
    uint64_t queries
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t transaction_time
    uint64_t query_time
    uint64_t wait_time
    uint64_t errors
    uint64_t transactions_per_second    # averages of the last window
    uint64_t queries_per_second
    uint64_t received_per_second
    uint64_t sent_per_second
    uint64_t errors_per_second
    uint64_t mean_transaction       # microseconds
    uint64_t mean_query
    uint64_t mean_wait              # for each transaction
    uint64_t quiet                  # windows in a row in which nothing happened
    uint64_t spare[4]
    uint64_t query_base[2][2048]    # what the histograms were when the last two windows began
    uint64_t transaction_base[2][2048]
    uint64_t wait_base[2][2048]

cdef struct CensusRow:              # sockets of all processes by kind and state, [keeper] each 15 s
    int64_t taken_at
    uint64_t states[34]
    uint64_t spare[5]
