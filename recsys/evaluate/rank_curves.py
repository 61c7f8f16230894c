"""What a place in a channel's list says of the row there: log-odds by rank, fitted to what users chose next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from recsys.evaluate.metrics import DEPTH
from recsys.types import Bools, Candidates, Offsets, Rows

PLACES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, DEPTH + 1)
"""Where a curve has its knots: equal distances of the logarithm, and 0 behind the longest list that is looked at."""
SMOOTHNESS: Final = 200.0
"""Weight of the squared changes of slope, in events: what few of them say is a line in the logarithm of the rank, and
only what many say bends it."""
RIDGE: Final = 0.5
"""The same of the slopes themselves: a few events by chance are nothing."""
_ITERATIONS: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class RankedEvents:
    """Events as a choice among the rows that any channel found, those events only whose target is among them.

    Attributes:
        starts: (M,) where each event's rows begin.
        places: (C, T) place of every row in each channel's list from 0, DEPTH where the list does not hold it.
        chosen: (T,) the target; one row an event.
    """

    starts: Offsets
    places: NDArray[np.int32]
    chosen: Bools

    @classmethod
    def of(cls, lists: Sequence[Candidates], targets: Rows) -> RankedEvents:
        """From C channels' lists, each over the same events, and the M targets."""
        found = [_cells(one) for one in lists]
        cells, at = np.unique(np.concatenate([cells for cells, _ in found]), return_inverse=True)
        places = np.full((len(lists), len(cells)), DEPTH, np.int32)
        ends = np.cumsum([len(cells) for cells, _ in found])
        for channel, (end, (_, place)) in enumerate(zip(ends, found, strict=True)):
            places[channel, at[end - len(place) : end]] = place
        event, row = cells >> 32, cells & 0xFFFFFFFF
        chosen = row == targets[event]
        told = np.bincount(event[chosen], minlength=len(targets)) > 0
        kept = told[event]
        starts = np.flatnonzero(np.diff(event[kept], prepend=-1))
        return cls(starts, places[:, kept], chosen[kept])

    def __len__(self) -> int:
        return len(self.starts)

    def __add__(self, other: RankedEvents) -> RankedEvents:
        return RankedEvents(
            np.concatenate((self.starts, len(self.chosen) + other.starts)),
            np.concatenate((self.places, other.places), axis=1),
            np.concatenate((self.chosen, other.chosen)),
        )


def _cells(lists: Candidates) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(event, row) as one integer, and the place from 0, of every candidate within DEPTH."""
    event = np.repeat(np.arange(len(lists)), lists.counts)
    place = np.arange(len(lists.rows)) - lists.offsets[event]
    within = place < DEPTH
    return (event[within] << 32) | lists.rows[within], place[within]


def fit_curves(events: RankedEvents) -> NDArray[np.float64]:
    """(C, len(PLACES)) log-odds by channel and place: ≥ 0, never rising, 0 at the last place.

    A conditional logit (McFadden 1974): the target is drawn from the rows that any channel found, with probability
    ∝ exp(Σ_c f_c(place of the row in list c)), f_c = 0 where the list does not hold it. Each f_c is linear in the
    logarithm of the place between knots, and its drops from knot to knot are what is fitted, kept ≥ 0. What two
    channels both know is counted once, since the curves are fitted together and not each alone. The likelihood is
    concave and the priors are convex, so there is one optimum.
    """
    channels, knots = len(events.places), len(PLACES) - 1
    shape = _drops_to_values()
    prior = _prior() / max(len(events), 1)
    if not len(events):
        return np.zeros((channels, len(PLACES)))
    owner = np.repeat(np.arange(len(events)), np.diff(events.starts, append=len(events.chosen)))
    chosen = np.stack([np.bincount(place[events.chosen], minlength=DEPTH + 1) for place in events.places])

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        drops = flat.reshape(channels, knots)
        values = drops @ shape
        score = sum(value[place] for value, place in zip(values, events.places, strict=True))
        score -= np.maximum.reduceat(score, events.starts)[owner]
        weight = np.exp(score)
        total = np.add.reduceat(weight, events.starts)
        expected = weight / total[owner]
        likelihood = (score[events.chosen] - np.log(total)).mean()
        fitted = np.stack([np.bincount(place, expected, DEPTH + 1) for place in events.places])
        penalty = drops @ prior
        gradient = (fitted - chosen) @ shape.T / len(events) + penalty
        return float(0.5 * (drops * penalty).sum() - likelihood), gradient.ravel()

    start = np.full(channels * knots, 0.1)
    bounds = [(0.0, None)] * len(start)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS})
    drops = found.x.reshape(channels, knots)
    values = np.zeros((channels, len(PLACES)))
    values[:, :-1] = np.cumsum(drops[:, ::-1], axis=1)[:, ::-1]
    return values


def _drops_to_values() -> NDArray[np.float64]:
    """(knots, DEPTH + 1) the share of a drop from one knot to the next that a place still has before it."""
    place, knot = np.log(np.arange(1, DEPTH + 2)), np.log(PLACES)
    shares = (knot[1:, None] - place) / np.diff(knot)[:, None]
    return np.asarray(np.clip(shares, 0.0, 1.0))


def _prior() -> NDArray[np.float64]:
    """(knots, knots) the quadratic form of drops that, halved, is what the two priors cost."""
    widths = np.diff(np.log(PLACES))
    bends = np.diff(np.eye(len(widths)), axis=0) / widths
    return np.asarray(SMOOTHNESS * bends.T @ bends + RIDGE * np.diag(1.0 / widths))
