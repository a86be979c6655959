"""SQL texts that speak of prepared statements by name: DEALLOCATE, EXECUTE, PREPARE. What a client has prepared by
Parse is called otherwise on servers, so PostgreSQL would not know what such a text means.

Rules
1. Right before such a text the server is given the statements of the client whose names stand in it, under those names.
   So PostgreSQL itself does what the text says, and words its errors.
2. They are lent for this transaction only (DIRT_STATEMENTS), and given anew before each text: what the client means by a
   name is decided here. One that it has no more is closed (`Server.lent`). Where nothing is executed the name is given to
   an empty text: that of the client might fail by now, or wait for a lock.
3. Before a Query a Sync of ours ends the lending, unless something of the client's is unsynced: should PostgreSQL refuse
   one of the texts, the client's is still run. In a failed transaction nothing is lent, for nothing is run.
4. Which names a DEALLOCATE has taken is known from the order of its tags (`Server.forgetting`).
"""

from __future__ import annotations

import re

from doorman.shm.statements cimport Digest
from doorman.workers.relay.engine cimport DIRT_STATEMENTS, Client, Engine, Server
from doorman.workers.relay.outgoing cimport outgoing_add
from doorman.workers.relay.pending cimport pending_sent, pending_unsynced
from doorman.workers.relay.prepare cimport doubt_set, drop_statement, note_start, write_parse
from doorman.workers.relay.replies cimport REPLY_CLOSE_OURS, REPLY_PARSE_LENT, REPLY_SYNC_OURS, replies_push
from doorman.workers.relay.statements cimport Named, Statement

cdef extern from "<string.h>" nogil:
    char *strcasestr(const char *haystack, const char *needle)

cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes NOTHING = b"\0\0\0"          # body of a Parse: no text, no types

# Comments and strings are passed over; then "identifier", identifier, end of a statement.
cdef object TOKEN = re.compile(
    rb"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"((?:[^"]|"")+)"|([a-z_\x80-\xff][\w$\x80-\xff]*)|(;)""", re.I | re.S)


cdef bint speaks_of_names(const char *text) noexcept nogil:
    """May a text, NUL behind it, speak of prepared statements?"""
    return (
        strcasestr(text, b"deallocate") != NULL or strcasestr(text, b"execute") != NULL
        or strcasestr(text, b"prepare") != NULL
    )


def names_in(text: bytes) -> tuple[list[bytes], list[bytes], bool]:
    """Every word that may be a name, each once; what DEALLOCATE names, statement by statement; whether one forgets all."""
    words: dict[bytes, None] = {}
    forgotten = []
    every = False
    statement: list[tuple[bytes, bool]] = []
    for found in [*TOKEN.finditer(text), None]:
        quoted, plain, end = found.groups() if found is not None else (None, None, b";")
        if quoted is not None or plain is not None:
            word = quoted.replace(b'""', b'"') if quoted is not None else plain.lower()
            words[word] = None
            statement.append((word, quoted is not None))
        elif end is not None:
            if statement[:1] == [(b"deallocate", False)]:
                rest = statement[2:] if statement[1:2] == [(b"prepare", False)] and len(statement) > 2 else statement[1:]
                if rest == [(b"all", False)]:
                    every = True
                elif rest:
                    forgotten.append(rest[0][0])
            elif statement == [(b"discard", False), (b"all", False)]:
                every = True
            statement = []
    return list(words), forgotten, every


cdef int lend_names(Engine engine, Client client, Server server, bytes text, bint alone) except -1:
    """Rules 1 to 3. alone: a Query, which a Sync may stand before."""
    cdef Named named
    cdef list words
    cdef bint sent = False, executes
    words, server.forgetting, _ = names_in(text)
    executes = b"execute" in words
    if server.status == b"E":
        return 0
    alone = alone and not pending_unsynced(&server.pending)
    for name in words:
        named = client.names.get(name) if client.names is not None else None
        if named is not None:
            if server.lent is None:
                server.lent = set()
            server.lent.add(name)
        elif server.lent is None or name not in server.lent:
            continue
        else:
            server.lent.remove(name)
        lend(engine, server, name, named, executes)
        sent = True
    if sent:
        server.dirt |= DIRT_STATEMENTS
        if alone:
            pending_sent(&server.pending, b"S")
            replies_push(&server.replies, REPLY_SYNC_OURS, NULL, NULL, NULL)
            outgoing_add(&engine.to_server, SYNC, len(SYNC))
    return 0


cdef int take_back(Engine engine, Server server, bytes name) except -1:
    """The client closes what it calls so: it must not find what was lent."""
    if server.lent is not None and name in server.lent:
        server.lent.remove(name)
        lend(engine, server, name, None, False)
    return 0


cdef int lend(Engine engine, Server server, bytes name, Named named, bint executes) except -1:
    """Close what the server has under this name, and give it what the client means by it; None: nothing."""
    cdef bytes body
    cdef Digest none
    none.high = none.low = 0
    note_start(engine, server)
    pending_sent(&server.pending, b"C")
    replies_push(&server.replies, REPLY_CLOSE_OURS, NULL, NULL, &none)
    close = b"C" + (len(name) + 6).to_bytes(4, "big") + b"S" + name + b"\0"
    outgoing_add(&engine.to_server, close, len(close))
    if named is None:
        return 0
    replies_push(&server.replies, REPLY_PARSE_LENT, NULL, NULL, NULL)
    body = named.statement.body if executes else NOTHING
    return write_parse(&engine.to_server, name, len(name) + 1, body, len(body))


cdef bytes lend_to(Engine engine, Client client, Server server, Statement statement):
    """Parse, Bind or Describe of a statement that speaks of others. Returns its text. What an EXECUTE returns is decided
    when it is prepared, so that is done anew each time, and it is compared with nothing (nor does PostgreSQL)."""
    cdef bytes text = statement.body[: statement.body.index(b"\0")]
    lend_names(engine, client, server, text, False)
    if not statement.forgets:
        drop_statement(engine, server, statement)
    return text


cdef tuple targets_of(Engine engine, Client client, Server server, Statement statement):
    """Bind of a statement that speaks of others; what its Execute will forget: the Named or None, and whether all."""
    cdef bytes text = lend_to(engine, client, server, statement)
    _, forgotten, every = names_in(text)
    return client.names.get(forgotten[0]) if forgotten and client.names is not None else None, every


cdef int note_deallocated(Engine engine, Server server) except -1:
    """The tag of a DEALLOCATE in a Query came (rule 4). It may have named anything, even statements of others."""
    cdef Client client = server.client
    cdef bytes name
    doubt_set(engine, server)
    if not server.forgetting:
        return 0
    name = server.forgetting.pop(0)
    if server.lent is not None:
        server.lent.discard(name)
    if client.names is not None and client.names.pop(name, None) is not None:
        client.last_named = None
    return 0
