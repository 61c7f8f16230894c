"""Keeps freed memory in the process: pages given back and asked for anew made large CPU tensors up to 20× slower."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 256 << 20
_LARGEST_FROM_HEAP = 32 << 20


def keep_freed_memory() -> None:
    """Tells glibc to take blocks up to 32 MiB from its heap and to keep 256 MiB free there; does nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)
