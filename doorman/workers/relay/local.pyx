"""Queries that are answered here: BEGIN (which can wait), the check query, DEALLOCATE of names that only we know.

Rules
1. An answer is what PostgreSQL would have given at this place, its ReadyForQuery included: T or E inside a transaction
   that has begun for the client only.
2. A BEGIN that was answered here is sent in front of the next message that needs a server, in the same write. Only the
   plain forms, which cannot fail, are answered here.
3. The answer to the check query is the server's own, remembered for this pool; never an error, never from inside a
   transaction. A text that ends one, or begins, or makes names or settings others, is none.
4. A client that fails to get a server after such a BEGIN is in a failed transaction, as it would be with PostgreSQL.
   The end of a transaction that no server knows of is answered here.
"""

import re

from libc.string cimport memcmp

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.prepare cimport send_ours
from doorman.workers.relay.traces cimport first_word_of

from doorman.wire.backend import command_complete
from doorman.wire.frontend import query
from doorman.workers.sql_tokens import statements_in

cdef enum:
    LONGEST = 512               # bytes of a Query message that is looked at
    MOST_ANSWERS = 1000         # of check queries that are remembered, one for each pool and settings of its clients
    MOST_CHECKS = 65_536        # a check query's answer beyond this is not remembered

# ErrorResponse, NoticeResponse, NotificationResponse, ParameterStatus: what is said to one client.
cdef frozenset SOMEBODYS = frozenset(b"ENAS")

# What a part has taken is not tried anew (++): else spaces without end take time by their number squared.
cdef object BEGIN = re.compile(
    rb"\s*+(?:(begin)(?:\s++(?:work|transaction))?|start\s++transaction)\s*+;?\s*+\Z", re.I)
cdef object END = re.compile(rb"\s*+(?:(commit|end)|rollback|abort)(?:\s++(?:work|transaction))?\s*+;?\s*+\Z", re.I)
cdef object DEALLOCATE = re.compile(
    rb'\s*+deallocate\s++(?:prepare\s++)?'
    rb'(?:(all)|([a-z_\x80-\xff][a-z0-9_$\x80-\xff]*+)|"((?:[^"]|"")+)")\s*+;?\s*+\Z', re.I)
# Words that are no name without quotes: the reserved ones, and those that may be functions or types (pg_get_keywords).
cdef frozenset RESERVED = frozenset(
    b"""
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create current_catalog
    current_date current_role current_time current_timestamp current_user default deferrable desc distinct do else end except
    false fetch for foreign from grant group having in initially intersect into lateral leading limit localtime localtimestamp
    not null offset on only or order placing primary references returning select session_user some symmetric system_user table
    then to trailing true union unique user using variadic when where window with
    authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull join left like natural
    notnull outer overlaps right similar tablesample verbose
    """.split()
)
cdef object DISCARD = re.compile(rb"\s*+discard\s++all\s*+;?\s*+\Z", re.I)

cdef frozenset NO_CHECKS = frozenset(
    b"begin start commit end rollback abort savepoint release prepare execute deallocate discard set reset listen declare fetch".split()
)

cdef bytes BEGIN_FAILED = query("BEGIN; SELECT 1/0")


cdef bint answer_here(Engine engine, Client client, const char *message, Py_ssize_t length) except -1:
    """A Query of a client without a server. True: it is answered."""
    cdef char first
    if is_check(client, message, length):
        return answer_check(engine, client)
    if length > LONGEST or length < 7:
        return False
    first = message[5]
    if client.begin is not None and end_here(engine, client, message, length):
        return True
    if first == b"b" or first == b"B" or first == b"s" or first == b"S" or first == b" ":
        return defer_begin(engine, client, message, length)
    if first == b"d" or first == b"D":
        return deallocate_here(engine, client, message, length) or discard_here(engine, client, message, length)
    return False


cdef void count_here(Client client, bint ends) noexcept:
    """A query that no server was needed for; `ends`: a whole transaction is over with it."""
    client.counters.queries += 1
    client.counters.query_histogram[0] += 1
    client.row.queries += 1
    if ends:
        client.counters.transactions += 1
        client.counters.transaction_histogram[0] += 1
        client.row.transactions += 1


cdef int ready(Engine engine, Client client) except -1:
    """ReadyForQuery of a client without a server."""
    cdef char *message = b"Z\x00\x00\x00\x05I"
    if client.begin_failed:
        message = b"Z\x00\x00\x00\x05E"
    elif client.begin is not None:
        message = b"Z\x00\x00\x00\x05T"
    return engine.answer(client, message, 6)


# --- BEGIN -----------------------------------------------------------------------------------------------------------

cdef bint defer_begin(Engine engine, Client client, const char *message, Py_ssize_t length) except -1:
    cdef bytes text, tag
    if client.begin is not None:
        return False
    if message[5] | 32 == b"s" and message[6] | 32 != b"t":     # SELECT: most that begins with S
        return False
    text = message[5 : length - 1]
    found = BEGIN.match(text)
    if found is None:
        return False
    client.begin = message[:length]
    client.unnamed = None
    count_here(client, False)
    tag = command_complete("BEGIN" if found.group(1) else "START TRANSACTION")
    engine.answer(client, tag + b"Z\x00\x00\x00\x05T", len(tag) + 6)
    return True


cdef bint end_here(Engine engine, Client client, const char *message, Py_ssize_t length) except -1:
    """The end of a transaction that has begun for the client only: no server has anything to do with it."""
    found = END.match(message[5 : length - 1])
    if found is None:
        return False
    tag = command_complete("COMMIT" if found.group(1) and not client.begin_failed else "ROLLBACK")
    client.begin = None
    client.begin_failed = False
    client.unnamed = None
    count_here(client, True)
    engine.answer(client, tag, len(tag))
    ready(engine, client)
    return True


cdef int begin_now(Engine engine, Client client, Server server) except -1:
    """Rule 2; and rule 4: make the failed transaction real, then PostgreSQL decides what it takes."""
    send_ours(engine, server, BEGIN_FAILED if client.begin_failed else client.begin)
    server.status = b"T"                                # what is sent behind it meets an open transaction
    if client.begin_failed:
        server.begin_fails = True
    client.begin = None
    client.begin_failed = False
    return 0


# --- the check query -------------------------------------------------------------------------------------------------

cdef bytes check_message(str text):
    """The check query as a message; empty, which no message is, of what cannot be answered from memory (rule 3)."""
    for statement in statements_in(text.encode()):
        if first_word_of(statement, len(statement)) in NO_CHECKS:
            return b""
    return query(text)


cdef bint is_check(Client client, const char *message, Py_ssize_t length) noexcept:
    cdef bytes check = client.check
    return check is not None and len(check) == length and memcmp(<const char *>check, message, length) == 0


cdef bint answer_check(Engine engine, Client client) except -1:
    cdef bytes check, answer
    if client.begin_failed:
        return False
    known = engine.checks.get((client.pool, client.settings_digest))
    if known is None:
        return False
    check, answer = known
    if check != client.check:
        return False
    client.unnamed = None
    client.counters.checks_known += 1
    engine.answer(client, answer, len(answer))
    ready(engine, client)
    return True


cdef int note_check(Engine engine, Server server, const char *answer, Py_ssize_t length) except -1:
    """More of the server's answer to a check query; remembered when it is whole (rule 3). What is sent behind the query
    ends that: its answer is somebody's."""
    cdef Client client = server.client
    cdef bytearray whole = server.capture
    whole += answer[:length]
    if len(whole) > MOST_CHECKS or whole[:1] == b"E" or server.pending.doubtful or server.replies.length > 1:
        server.capture = None
    elif not server.pending.length:
        server.capture = None
        kinds = kinds_of(bytes(whole))
        if server.status == b"I" and kinds.count(b"Z") == 1 and not set(kinds) & SOMEBODYS:
            if len(engine.checks) >= MOST_ANSWERS:
                engine.checks.clear()
            engine.checks[client.pool, client.settings_digest] = (client.check, bytes(whole[: len(whole) - 6]))
    return 0


def kinds_of(answer: bytes) -> bytes:
    """The type bytes of whole messages."""
    kinds = bytearray()
    at = 0
    while at + 5 <= len(answer):
        kinds.append(answer[at])
        at += 1 + int.from_bytes(answer[at + 1 : at + 5], "big")
    return bytes(kinds)


# --- DEALLOCATE ------------------------------------------------------------------------------------------------------

cdef bint deallocate_here(Engine engine, Client client, const char *message, Py_ssize_t length) except -1:
    """DEALLOCATE of a name that the client gave by Parse, or of all, while it has no server: none is needed for it."""
    cdef bytes name
    if length > LONGEST or not client.renames:
        return False
    found = DEALLOCATE.match(message[5 : length - 1])
    if found is None or client.begin_failed:
        return False
    name, every = name_to_forget(message[5 : length - 1])
    if every:
        client.names = None
        tag = command_complete("DEALLOCATE ALL")
    else:
        if client.names is None or name not in client.names or (found.group(2) is not None and name in RESERVED):
            return False
        del client.names[name]
        tag = command_complete("DEALLOCATE")
    client.last_named = None
    client.unnamed = None
    count_here(client, client.begin is None)
    engine.answer(client, tag, len(tag))
    ready(engine, client)
    return True


cdef tuple name_to_forget(bytes text):
    """(the name that a DEALLOCATE names, None; whether it or a DISCARD forgets all)."""
    found = DEALLOCATE.match(text)
    if found is None:
        return None, DISCARD.match(text) is not None
    every, plain, quoted = found.groups()
    if every:
        return None, True
    return (plain.lower() if plain is not None else quoted.replace(b'""', b'"')), False


cdef bint discard_here(Engine engine, Client client, const char *message, Py_ssize_t length) except -1:
    """DISCARD ALL of a client without a server: nothing of its session is anywhere but here."""
    if client.begin is not None or not client.renames or client.followed is not None:
        return False
    if DISCARD.match(message[5 : length - 1]) is None:
        return False
    client.names = None
    client.last_named = None
    client.unnamed = None
    count_here(client, True)
    tag = command_complete("DISCARD ALL")
    engine.answer(client, tag, len(tag))
    ready(engine, client)
    return True
