"""Children that die with their parent, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> None:
    """Has the kernel send SIGTERM to this process when `parent` ends, even by kill -9.

    Does nothing on systems other than Linux, where the closed control channel ends a worker.

    Args:
        parent: process id of the one that started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(0)
