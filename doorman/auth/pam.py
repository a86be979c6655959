"""PAM: a password judged by the system's libpam, which blocks, and so runs in a thread (`blocking`).

Rules
1. As PostgreSQL does: PAM_USER and PAM_RHOST are set beforehand, every prompt that hides its answer gets the password,
   then pam_authenticate and pam_acct_mgmt; no credentials are set, no session is opened.
2. Answers that libpam frees are allocated by malloc; everything else that it points to outlives the call.
3. Nothing of the conversation is logged but what the modules say in words (PAM_ERROR_MSG, PAM_TEXT_INFO).

Called through ctypes: the interface is five functions and has not changed since the nineties, and no binding on PyPI
lets us set PAM_RHOST and keep the conversation as PostgreSQL's.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any, Final

log = logging.getLogger(__name__)

LIBRARY: Final = "libpam.so.0"
DEFAULT_SERVICE: Final = "postgresql"
"""PostgreSQL's name for its service; `pamservice` of a rule and `auth_pam_service` of a user set another."""

_SUCCESS, _CONVERSATION_ERROR = 0, 19
_USER, _RHOST = 2, 4
_PROMPT_ECHO_OFF, _PROMPT_ECHO_ON = 1, 2
_SILENT: Final = 0x8000


class PamRefused(Exception):
    """PAM said no, or could not be asked; the text is for the log."""


class _Message(ctypes.Structure):
    """`struct pam_message`."""

    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    """`struct pam_response`."""

    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_Conversation = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.POINTER(_Response)),
    ctypes.c_void_p,
)


class _Conv(ctypes.Structure):
    """`struct pam_conv`."""

    _fields_ = (("function", _Conversation), ("data", ctypes.c_void_p))


def check_password(service: str, user: str, password: bytes, remote_host: str) -> None:
    """Return when PAM accepts, raise `PamRefused` when it does not. Blocks for as long as the modules like.

    `remote_host`: the client's address, `[local]` for the Unix socket.
    """
    library = load_library()
    name = user.encode("utf-8", "surrogateescape")
    conversation = _Conversation(lambda *arguments: _converse(name, password, *arguments))
    conv = _Conv(conversation, None)
    handle = ctypes.c_void_p()
    code = library.pam_start(service.encode(), name, ctypes.byref(conv), ctypes.byref(handle))
    if code != _SUCCESS:
        raise PamRefused(f"PAM service {service!r} could not be started (code {code})")
    try:
        _step(library, handle, "pam_set_item", library.pam_set_item(handle, _USER, name))
        _step(library, handle, "pam_set_item", library.pam_set_item(handle, _RHOST, remote_host.encode()))
        code = library.pam_authenticate(handle, _SILENT)
        _step(library, handle, "pam_authenticate", code)
        code = library.pam_acct_mgmt(handle, _SILENT)
        _step(library, handle, "pam_acct_mgmt", code)
    finally:
        library.pam_end(handle, code)


def _step(library: Any, handle: ctypes.c_void_p, call: str, code: int) -> None:
    if code != _SUCCESS:
        words = library.pam_strerror(handle, code) or b""
        raise PamRefused(f"{call}: {words.decode(errors='replace')} ({code})")


@cache
def load_library() -> Any:
    """libpam with the types of what is called; `PamRefused` where the system has none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise PamRefused(f"{LIBRARY} is not installed ({error})") from None
    handle, text = ctypes.c_void_p, ctypes.c_char_p
    library.pam_start.argtypes = (text, text, ctypes.POINTER(_Conv), ctypes.POINTER(handle))
    library.pam_set_item.argtypes = (handle, ctypes.c_int, text)
    for call in (library.pam_authenticate, library.pam_acct_mgmt, library.pam_end):
        call.argtypes = (handle, ctypes.c_int)
    library.pam_strerror.argtypes = (handle, ctypes.c_int)
    library.pam_strerror.restype = text
    return library


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.calloc.restype = libc.malloc.restype = ctypes.c_void_p
    libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    libc.malloc.argtypes = (ctypes.c_size_t,)
    return libc


def _converse(user: bytes, password: bytes, count: int, messages: Any, answers: Any, data: Any) -> int:
    """The conversation function: called by modules, in the thread of `check_password`."""
    try:
        given = _libc().calloc(max(count, 1), ctypes.sizeof(_Response))
        if not given:
            return _CONVERSATION_ERROR
        responses = ctypes.cast(given, ctypes.POINTER(_Response))
        for at in range(count):
            message = messages[at].contents
            if message.style == _PROMPT_ECHO_OFF:
                responses[at].text = _copy(password)
            elif message.style == _PROMPT_ECHO_ON:
                responses[at].text = _copy(user)
            else:
                log.info("PAM says: %s", (message.text or b"").decode(errors="replace"))
        answers[0] = responses
    except Exception:
        log.exception("the PAM conversation failed by a fault of ours")
        return _CONVERSATION_ERROR
    return _SUCCESS


def _copy(text: bytes) -> int:
    """Rule 2."""
    target: int = _libc().malloc(len(text) + 1)
    ctypes.memmove(target, text + b"\0", len(text) + 1)
    return target
