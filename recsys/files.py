"""Files that are either whole or not there: written under a temporary name, synced, renamed.

A process that is killed leaves what it was writing under its temporary name. Whoever writes holds a lock on that
name's file or directory, which the kernel lets go of when the process dies: the next to write the same thing finds
what nobody holds, and clears it away.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_SUFFIX: Final = ".tmp"
_RANDOM: Final = "[a-z0-9_]{8}"
"""What the module tempfile puts between prefix and suffix."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and takes the name `path`.

    On an error nothing is left behind and what was at `path` stays. What killed processes have left
    is removed first.
    """
    with _temporary(path.parent, f".{path.name}.", directory=False) as temporary:
        yield temporary
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """As `replacing`, for a whole directory; an older one at `path` is replaced.

    On Linux the two swap names in one step, so that even a process killed on the spot leaves the old
    or the new one whole at `path`. Elsewhere there is an instant with neither.
    """
    with temporary_directory(path.parent, f".{path.name}.") as temporary:
        yield temporary
        sync_directory(temporary)
        if not path.exists():
            temporary.replace(path)
        elif not _exchange(temporary, path):
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / "old")
            temporary.replace(path)
            shutil.rmtree(old)
        sync(path.parent)


@contextmanager
def temporary_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Yields a new directory in `parent`; what is still under its name in the end is removed.

    Those of the same prefix that killed processes have left are removed first; those of living ones
    stay, so that two may write side by side.
    """
    with _temporary(parent, prefix, directory=True) as temporary:
        yield temporary


@contextmanager
def _temporary(parent: Path, prefix: str, *, directory: bool) -> Iterator[Path]:
    """A new file or directory `prefix????????.tmp` in `parent`, locked for as long as it is written."""
    parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(parent, prefix)
    temporary, lock = _create(parent, prefix, directory)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(lock)


def _create(parent: Path, prefix: str, directory: bool) -> tuple[Path, int]:
    """A new file or directory, and the open descriptor that holds the lock on it."""
    while True:
        if directory:
            name = tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=parent)
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=parent)
            os.close(handle)
        try:
            lock = os.open(name, os.O_RDONLY)
        except FileNotFoundError:  # cleared away by another before it was locked
            continue
        with suppress(OSError):  # a file system without locks: nothing is cleared away there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if Path(name).exists():
            return Path(name), lock
        os.close(lock)


def _clear_abandoned(parent: Path, prefix: str) -> None:
    """Removes what is there under a temporary name of that prefix and no process holds."""
    ours = re.compile(re.escape(prefix) + _RANDOM + re.escape(_SUFFIX))
    for name in filter(ours.fullmatch, os.listdir(parent)):
        try:
            lock = os.open(parent / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # done this moment, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(parent / name)
        except OSError:  # somebody is writing it
            continue
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def sync_directory(directory: Path) -> None:
    """Gives a directory that was made in private the usual mode, and asks the disk to keep all that is in it."""
    directory.chmod(0o755)
    for part in sorted(directory.rglob("*")):
        sync(part)
    sync(directory)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
