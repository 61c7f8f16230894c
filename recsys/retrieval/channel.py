"""The seam of retrieval: a channel takes users and answers with candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from recsys.types import Candidates, Deadline, RowMask, Users

if TYPE_CHECKING:
    from recsys.retrieval.user_tower import UserTower


@runtime_checkable
class Channel(Protocol):
    """One way of finding candidates. The same code serves one user online and 1,000 offline."""

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        ...

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """The k best eligible rows of each user, best first, fewer only when fewer are eligible.

        Eligible is what `allowed` holds (everything when None) and `users.excluded` does not.
        A channel that has nothing to say about a user (no history, for one) gives none.

        Raises:
            DeadlineError: when `deadline` passes before an answer is there.
        """
        ...


@runtime_checkable
class TowerChannel(Channel, Protocol):
    """A channel that begins with vectors of the users."""

    @property
    def tower(self) -> UserTower:
        """What makes them."""
        ...
