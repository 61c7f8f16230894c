"""Files that are either whole or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and takes the name `path`.

    On an error nothing is left behind and what was at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """As `replacing`, for a whole directory. An older directory at `path` is replaced.

    On Linux the two swap names in one step, so that even a process killed on the spot leaves the old
    or the new one whole at `path`. Elsewhere there is an instant with neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for part in sorted(temporary.rglob("*")):
            sync(part)
        sync(temporary)
        if not path.exists():
            temporary.replace(path)
        elif not _exchange(temporary, path):
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / "old")
            temporary.replace(path)
            shutil.rmtree(old)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps the names of two paths in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    at_working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux's renameat2(2)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(at_working_directory, paths[0], at_working_directory, paths[1], exchange) == 0)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Asks the disk to keep a file's or a directory's content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
