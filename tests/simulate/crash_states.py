"""Every state in which a process can leave the table when it is killed inside one of the pool's doors.

A forked child goes through the door under ptrace, one instruction at a time; after each one the segment is compared
with its last copy. Killing it between two instructions leaves the table as one of these copies, and there are only a
few dozen of them per door, so all are tried and no timing luck is needed.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

from doorman.shm.trial import Trial

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_SETOPTIONS = 0, 7, 9, 0x4200
PTRACE_O_EXITKILL = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, data: int = 0) -> None:
    if libc.ptrace(request, pid, None, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def can_trace() -> bool:
    """Whether this machine lets a process trace its child, by single instructions that may be atomic ones."""
    if os.uname().machine != "x86_64":  # elsewhere a step between load-linked and store-conditional never ends
        return False
    pid = start_child(lambda: None)
    try:
        ptrace(PTRACE_SINGLESTEP, pid)
        os.waitpid(pid, 0)
    except OSError:
        return False
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return True


def start_child(work: Callable[[], None]) -> int:
    """A traced child that stopped before `work`."""
    pid = os.fork()
    if pid == 0:
        libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return pid


def crash_states(trial: Trial, work: Callable[[], None]) -> Iterator[bytes]:
    """The states of the segment before, within and after every door that `work` goes through as `trial`.

    The child that does it has ended when the first state comes; the segment is left as it was before.
    """
    before = trial.snapshot()
    states = [before]
    trial.traced = True
    pid = start_child(work)
    trial.traced = False
    ptrace(PTRACE_SETOPTIONS, pid, PTRACE_O_EXITKILL)
    while resume(pid, PTRACE_CONT) == signal.SIGSTOP:
        while resume(pid, PTRACE_SINGLESTEP) == signal.SIGTRAP:
            if trial.has_changed(states[-1]):
                states.append(trial.snapshot())
        if trial.has_changed(states[-1]):
            states.append(trial.snapshot())
    trial.restore(before)
    yield from states


def resume(pid: int, request: int) -> int:
    """Let the child go on; the signal that stopped it again, 0 when it ended well."""
    ptrace(request, pid)
    _, status = os.waitpid(pid, 0)
    if os.WIFSTOPPED(status):
        return os.WSTOPSIG(status)
    assert status == 0, f"the traced child ended with {status}"
    return 0
