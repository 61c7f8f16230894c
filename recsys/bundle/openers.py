"""Which code opens which type of component: the explicit tables. A new type is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from recsys.data.catalogue import Catalogue
from recsys.features.online import OnlineEncoder
from recsys.ranking.scorer import Scorer
from recsys.ranking.vector_scorer import VectorScorer
from recsys.retrieval.channel import Channel
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.retrieval.static_channel import StaticChannel
from recsys.retrieval.tree_channel import TreeChannel
from recsys.retrieval.vector_channel import VectorChannel


class ChannelOpener(Protocol):
    """Opens a channel from the folder of its component.

    Args:
        name: the component's name, which becomes the channel's.
        directory: the component's folder.
        options: what component.json says beside the files.
        catalogue, encoder: of the bundle.

    Raises:
        BundleError: when a file or an option is not what the type asks for.
    """

    def __call__(
        self, name: str, directory: Path, options: Mapping[str, JsonValue], catalogue: Catalogue, encoder: OnlineEncoder
    ) -> Channel:
        """Opens the channel."""
        ...


class ScorerOpener(Protocol):
    """Opens a scorer; as ChannelOpener, with the bundle's opened channels by name.

    A scorer that builds on a channel names it in its options: {"channel": name}.
    """

    def __call__(
        self,
        name: str,
        directory: Path,
        options: Mapping[str, JsonValue],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
        channels: Mapping[str, Channel],
    ) -> Scorer:
        """Opens the scorer."""
        ...


CHANNEL_OPENERS: Final[dict[str, ChannelOpener]] = {
    "vector": VectorChannel.open,
    "interests": InterestsChannel.open,
    "static": StaticChannel.open,
    "neighbours": NeighbourChannel.open,
    "tree": TreeChannel.open,
}

SCORER_OPENERS: Final[dict[str, ScorerOpener]] = {
    "vector_scorer": VectorScorer.open,
}
