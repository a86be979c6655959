"""Runs in a process with the instrumented modules: libFuzzer calls `play` of a mode with one input after the other.

python -m tests.fuzz.drive MODE [libFuzzer's arguments: corpus directories, -max_total_time=20, …]
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import traceback

MODES = ("arbitrary", "faithful", "scram", "hba", "records")


def main() -> int:
    mode, *arguments = sys.argv[1:]
    play = importlib.import_module(f"tests.fuzz.{mode}").play

    def take(data: int, size: int) -> int:
        try:
            play(ctypes.string_at(data, size))
        except BaseException:
            print("FINDING", traceback.format_exc(), file=sys.stderr, flush=True)
            os.abort()  # libFuzzer keeps the input
        return 0

    library = ctypes.CDLL(os.environ["DOORMAN_FUZZER"])
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    again = f"{sys.executable} -m tests.fuzz.drive {mode}"  # libFuzzer starts itself anew to merge and to minimise
    words = [again.encode(), *(argument.encode() for argument in arguments)]
    count = ctypes.c_int(len(words))
    values = ctypes.pointer((ctypes.c_char_p * (len(words) + 1))(*words, None))
    return int(library.LLVMFuzzerRunDriver(ctypes.byref(count), ctypes.byref(values), prototype(take)))


if __name__ == "__main__":
    sys.exit(main())
