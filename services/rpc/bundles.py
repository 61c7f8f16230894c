"""Keeps a worker on the bundle that CURRENT names: load in a thread, verify, warm up, switch."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from recsys.bundle.bundle import Bundle, open_bundle
from recsys.bundle.publish import CURRENT_FILE, bundle_path, current
from recsys.errors import BundleError, RecsysError
from recsys.types import RaggedRows, Users
from services.rpc.control import Refused, Serving

log = structlog.get_logger(__name__)

_WARM_K: Final = 100
_WARM_ROUNDS: Final = 3
_WARM_HISTORY: Final = 10


def load(path: Path) -> Bundle:
    """Opens a bundle, every file checked, and runs a few users through it before it is served.

    Raises:
        RecsysError: the bundle is not whole, or cannot answer.
    """
    try:
        bundle = open_bundle(path, verify=True)
        _warm_up(bundle)
    except RecsysError:
        raise
    # Engines raise what they like; a bundle that cannot answer is refused whatever the reason.
    except Exception as error:
        raise BundleError(f"{path}: cannot be opened and asked: {error!r}") from error
    return bundle


def _warm_up(bundle: Bundle) -> None:
    """First answers take longer: memory is mapped and sessions allocate. A user with history, and one without."""
    size = min(len(bundle.catalogue), _WARM_HISTORY)
    users = Users(
        ids=np.zeros(2, np.int64),
        known=np.zeros(2, np.bool_),
        attributes={},
        history=RaggedRows.of([np.arange(size, dtype=np.int32), []]),
        excluded=RaggedRows.empty(2),
    )
    for _ in range(_WARM_ROUNDS):
        for who in (users.slice(0, 1), users.slice(1, 2)):
            if bundle.scorers:
                bundle.cascade.run(who, _WARM_K)
            else:
                bundle.cascade.recall(who, _WARM_K)
    bundle.catalogue.titles()


def load_first(bundles: Path, last_good: str | None) -> tuple[Bundle, Refused | None]:
    """The bundle to start with: the one CURRENT names, else the one that others still serve.

    Raises:
        RecsysError: CURRENT's is refused and there is no other.
    """
    path = current(bundles)
    try:
        return load(path), None
    except RecsysError as error:
        if last_good is None or last_good == path.name:
            raise
        log.warning("bundle_refused", version=path.name, reason=str(error), serving=last_good)
        return load(bundle_path(bundles, last_good)), Refused(version=path.name, reason=str(error))


class BundleWatcher:
    """Looks at CURRENT every so often, and when asked.

    Args:
        bundles: folder of versions.
        serving: version that is served at the start.
        switch: called in the event loop with a new bundle that is ready.
        report: told what is served or refused.
        poll: seconds between two looks.
    """

    def __init__(
        self,
        bundles: Path,
        serving: str,
        switch: Callable[[Bundle], None],
        report: Callable[[Serving | Refused], None],
        poll: float,
    ) -> None:
        self._bundles, self._serving, self._switch, self._report, self._poll = bundles, serving, switch, report, poll
        self._asked = asyncio.Event()
        self._refused: tuple[str, int] | None = None

    def ask(self) -> None:
        """Has it look now, at a refused bundle again too, and report in any case."""
        self._refused = None
        self._asked.set()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._poll):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            await self._look(asked)

    async def _look(self, asked: bool) -> None:
        try:
            path = current(self._bundles)
            stamp = (path.name, (self._bundles / CURRENT_FILE).stat().st_mtime_ns)
        except (RecsysError, OSError) as error:
            if asked:
                self._report(Refused(version="", reason=str(error)))
            return
        if path.name == self._serving:
            if asked:
                self._report(Serving(version=self._serving))
        elif stamp != self._refused:
            await self._change(path, stamp)

    async def _change(self, path: Path, stamp: tuple[str, int]) -> None:
        try:
            bundle = await asyncio.to_thread(load, path)
        except RecsysError as error:
            self._refused = stamp
            log.warning("bundle_refused", version=path.name, reason=str(error), serving=self._serving)
            self._report(Refused(version=path.name, reason=str(error)))
            return
        self._refused = None
        self._serving = bundle.version
        self._switch(bundle)
        log.info("bundle_served", version=bundle.version)
        self._report(Serving(version=bundle.version))
        gc.collect()
