"""Run as a script: becomes another program that ends when the process that started it ends, killed or not.

    python -I -S bound_to_parent.py PARENT_PID PROGRAM ARGUMENT…

The kernel is asked to signal this process when its parent dies, which survives `exec`. A script of its
own rather than code between fork and exec, because the parent has threads by then. Elsewhere than on
Linux there is no such signal, and the program ends only when told to.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Binds this process to its parent, then becomes the program."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before the kernel knew
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
