"""A batch of users over all cores: one process a core, one thread each, answers in the order of the users."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from recsys.bundle.batch import BatchQuery, Part, answer
from recsys.bundle.bundle import Bundle, open_bundle
from recsys.errors import RecsysError
from recsys.retrieval.filters import row_mask
from recsys.types import Ids, RowMask

PART: Final = 1_024
"""Users that a process answers before it hands over."""
_AHEAD: Final = 2
"""Parts a process that are begun or wait to be taken: what is in memory has a bound, and no process waits for work."""
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answers(bundle: Bundle, query: BatchQuery, user_ids: Ids, workers: int) -> Iterator[Part]:
    """Answers of all users, in parts of PART, in the order of `user_ids`.

    With one worker, or users for one only, this process does it. Else the workers are new processes that
    open the bundle's folder themselves: a copy made by fork would share the threads and locks of libraries.

    Raises:
        PreconditionError, RequestError: as `recsys.bundle.batch.answer` does; for a query that does not
            fit the bundle before any process is started.
        RecsysError: when a worker's process died.
    """
    allowed = row_mask(bundle.catalogue, query.filters)
    answer(bundle, query, user_ids[:1], allowed)
    parts = [user_ids[start : start + PART] for start in range(0, len(user_ids), PART)]
    workers = min(workers, len(parts))
    if workers <= 1:
        yield from (answer(bundle, query, part, allowed) for part in parts)
        return
    with _processes(bundle.path, query, workers) as pool:
        waiting: deque[Future[Part]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(_answer, part))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise RecsysError(
                "a worker process died (out of memory?); nothing was written; give fewer --workers"
            ) from None


@contextmanager
def _processes(path: Path, query: BatchQuery, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with the bundle open; what they have not begun is dropped when the block ends early."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # read by libraries as they are imported: it must be there before the process is
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_open, initargs=(path, query))
    try:
        with _deaf_to_interrupts():
            for _ in range(workers):  # each task that finds no idle process starts one
                pool.submit(os.getpid)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C from their first moment: it is for this one, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Worker:
    """What a worker's process has open."""

    bundle: Bundle
    query: BatchQuery
    allowed: RowMask | None


def _open(path: Path, query: BatchQuery) -> None:
    """Opens the bundle in a new process; the one that started it has compared the checksums."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.bundle = open_bundle(path, verify=False)
    _Worker.query = query
    _Worker.allowed = row_mask(_Worker.bundle.catalogue, query.filters)


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(user_ids: Ids) -> Part:
    return answer(_Worker.bundle, _Worker.query, user_ids, _Worker.allowed)
