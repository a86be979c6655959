"""What a client's portals run, and what their Execute does to its names and settings.

Rules
1. A portal is known from its Bind on (`note_bound`, `note_deed`); if that fails or is skipped, `put_back` undoes it.
2. A deed is done when its portal is executed, once (`execute_deed`); an error undoes it (`answers`).
3. What is not known of a portal is not taken to be anything: to forget them all is always safe.
"""

from cpython.object cimport PyObject

from doorman.workers.relay.copying cimport begin_copy
from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.pending cimport pending_sent
from doorman.workers.relay.prepare cimport note_start, renew_effect
from doorman.workers.relay.rename cimport STEP_PASS, forget_named, hold, length_of_name, mix_text, note, note_told
from doorman.workers.relay.replies cimport REPLY_DESCRIBE, REPLY_EXECUTE, replies_push
from doorman.workers.relay.statements cimport Named, Statement

cdef enum:
    MOST_PORTALS = 4096             # with names, remembered of a client: one that never pauses keeps its server for ever


cdef Statement bound_to(Client client, bytes portal):
    """What a portal runs; None: that is not known."""
    bound = client.last_bound
    if portal:
        bound = client.portals.get(portal) if client.portals is not None else None
    return (<Named>bound).statement if isinstance(bound, Named) else <Statement>bound


cdef tuple note_bound(Client client, const char *portal, Py_ssize_t length, object bound):
    """What a portal runs from now on. Returns what `put_back` needs: its name, what it ran before, and no deed yet; None of
    the portal without a name, of which nothing is left when it cannot be made."""
    cdef bytes name
    if not length:
        client.last_bound = bound
        return None
    if client.portals is None or len(client.portals) >= MOST_PORTALS:
        client.portals = {}                             # what those run is not known any more
    name = portal[: min(length, NAME_LENGTH)]
    before = client.portals.get(name)
    client.portals[name] = bound
    return name, before, None


cdef int put_back(Client client, tuple before) except -1:
    """What a Bind has noted of its portal has not come to pass: neither `note_bound` nor the deed."""
    if before is None:
        return 0
    name, bound, deed = before
    if deed is not None and client.deeds is not None and client.deeds.get(name) is deed:
        forget_deed(client, name)
    if not name or client.portals is None:
        return 0
    if bound is None:
        client.portals.pop(name, None)
    else:
        client.portals[name] = bound
    return 0


cdef int forget_portal(Client client, bytes name) except -1:
    if client.portals is not None:
        client.portals.pop(name, None)
    return forget_deed(client, name)


cdef int forget_deed(Client client, bytes name) except -1:
    if client.deeds is not None:
        client.deeds.pop(name, None)
        client.deeds = client.deeds or None
    return 0


cdef int describe_portal(Engine engine, Client client, Server server, const char *message, Py_ssize_t here) except -1:
    """The description of a portal is that of the statement which it runs."""
    cdef Py_ssize_t length = length_of_name(message + 6, here - 6)
    bound = client.last_bound
    if length != 0:
        length = min(length, NAME_LENGTH)
        bound = client.portals.get(message[6 : 6 + length]) if length > 0 and client.portals is not None else None
    note_start(engine, server)
    pending_sent(&server.pending, b"D")
    note_told(client, bound)
    replies_push(&server.replies, REPLY_DESCRIBE, <PyObject *>bound if bound is not None else NULL, NULL, NULL)
    return STEP_PASS


cdef tuple note_deed(
    Engine engine, Client client, bytes portal, tuple before, Statement statement, tuple targets, bytes rest
):
    """Bind of what does something that counts when it is executed (`execute_deed`): forgets a name of the client's or all,
    sets what is not reported (a digest of text and parameters, or what nobody else has), or copies. Returns what `put_back`
    needs."""
    target, every = targets
    engine.nonce += statement.hides
    sets = mix_text(engine.nonce if statement.hides else statement.digest.low, rest) | 1 if statement.matters else 0
    if target is None and not every and not sets and not statement.copies:
        return before
    if client.deeds is None:
        client.deeds = {}
    client.deeds[portal] = deed = (target, every, sets, statement.copies)
    return portal, before[1] if before is not None else None, deed


cdef int execute_deed(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1:
    """An Execute, and what it does to the client's names (DEALLOCATE by extended protocol) and settings. Once. What an earlier
    batch has bound may not have come to pass."""
    cdef Py_ssize_t length = length_of_name(message + 5, here - 5)
    cdef bytes portal = message[5 : 5 + min(max(length, 0), NAME_LENGTH)]
    cdef tuple deed = client.deeds.get(portal) if length >= 0 and client.deeds is not None else None
    cdef Statement statement = bound_to(client, portal)
    cdef Named target
    cdef object names = None
    if deed is not None and server.replies.synced:
        return hold(server)
    if statement is not None and statement.control:
        renew_effect(engine, server, statement)
    if deed is None:
        note(engine, server, b"E")
        return STEP_PASS
    forget_deed(client, portal)
    target, every, sets, copies = deed
    note_start(engine, server)
    pending_sent(&server.pending, b"E")
    server.executed = True
    if sets:
        server.local_planner = mix_text(server.local_planner, sets.to_bytes(8, "big"))
        server.explained += 1
    if target is not None:
        if client.names is not None and client.names.get(target.name) is target:
            forget_named(client, target)
        else:
            target = None                               # it was closed meanwhile
    if every:
        names, client.names = client.names or {}, None
        client.last_named = None
    done = portal, deed, target, names
    replies_push(&server.replies, REPLY_EXECUTE, NULL, <PyObject *>done, NULL)
    return begin_copy(engine, server, run, run_length, message, here) if copies else STEP_PASS
