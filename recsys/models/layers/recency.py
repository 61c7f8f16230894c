"""A history as sums of its behaviours, each weighed by how long ago it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.layers.dropout import Dropout

_UNSEEN = -1e9
"""The logit of a place without behaviour: its share is zero."""
_FASTEST, _SLOWEST = 2.0, 0.01
"""What a behaviour one older starts to count less, in nats, in the first profile and in the last."""
_START_STD = 0.02


def prefix_ages(places: Tensor, length: int) -> Tensor:
    """(1, P, L) the age of each of L behaviours, oldest first, after the first `places` (P,); 0 = not seen yet."""
    return (places[:, None] - torch.arange(length, device=places.device)).clamp(min=0)[None]


def by_age(age: Tensor, weight: Tensor) -> Tensor:
    """Rows of `weight` (ages from 0, H) by age, (…) → (…, H); of what is not there, what has no share or count."""
    return F.embedding(age, torch.cat([weight.new_full((1, weight.shape[1]), _UNSEEN), weight[1:]]))


class RecencyProfiles(nn.Module):
    """H means of a history, each under a learned profile of how much an age counts.

    Profile h weighs behaviour i by the softmax of w_h[age_i] over the ages that are there. The profiles start as
    exponential decays from one that sees hardly more than the newest behaviour to one that sees hundreds.

    Args:
        dim: width d.
        length: the greatest age.
        profiles: H.
    """

    def __init__(self, dim: int, length: int, profiles: int) -> None:
        super().__init__()
        share = torch.arange(profiles) / max(1, profiles - 1)
        rates = _FASTEST * (_SLOWEST / _FASTEST) ** share
        self.weight = nn.Parameter(-torch.arange(length + 1)[:, None] * rates)
        self.start = nn.Parameter(torch.randn(dim) * _START_STD)

    def forward(self, vectors: Tensor, age: Tensor) -> Tensor:
        """Means at T places, each with its own view of the ages.

        Args:
            vectors: (B, L, d), in any order.
            age: (B or 1, T, L), 1 = newest, 0 = not there.

        Returns:
            (B, T, H·d); the start vector H times where nothing is there.
        """
        shares = torch.softmax(by_age(age, self.weight).transpose(-1, -2), dim=-1)
        if age.shape[1] == 1:  # what is served, in fewer nodes
            means = torch.matmul(shares.squeeze(1), vectors).flatten(1).unsqueeze(1)
        else:
            means = torch.matmul(shares.flatten(1, 2), vectors)
            means = means.view(len(vectors), age.shape[1], self.weight.shape[1] * vectors.shape[2])
        seen = (age > 0).any(dim=-1, keepdim=True)
        return torch.where(seen, means, self.start.repeat(self.weight.shape[1]))


class RecencyMixer(nn.Module):
    """H means of a history, and whatever else is known, to one vector: a linear map and what an MLP adds to it.

    The linear map starts as four times the mean of the means, so that products are heard from the first step on;
    nothing else is added at the start.

    Args:
        dim: width d.
        profiles: H.
        others: widths of what else enters the MLP.
        widening: inner width over d.
        dropout: rate inside the MLP.
    """

    def __init__(self, dim: int, profiles: int, others: tuple[int, ...], widening: int, dropout: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.direct = nn.Linear(profiles * dim, dim, bias=False)
        with torch.no_grad():
            self.direct.weight.normal_(std=_START_STD).add_(torch.eye(dim).repeat(1, profiles) * (4.0 / profiles))
        self.widen = nn.Linear(profiles * dim, widening * dim)
        self.others = nn.ModuleList(nn.Linear(width, widening * dim, bias=False) for width in others)
        self.other_direct = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in others)
        for added in self.other_direct.parameters():
            nn.init.zeros_(added)
        self.narrow = nn.Linear(widening * dim, dim)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)
        self.drop = Dropout(dropout)

    def forward(self, means: Tensor, *others: Tensor) -> Tensor:
        """Means (…, H·d) and others (…, width), leading axes broadcast → (…, d)."""
        hidden, plain = self.widen(means), self.direct(means)
        for widen, direct, other in zip(self.others, self.other_direct, others, strict=True):
            hidden, plain = hidden + widen(other), plain + direct(other)
        mixed: Tensor = self.gain * (plain + self.narrow(self.drop(F.gelu(hidden))))
        return mixed


class RecencyEncoder(nn.Module):
    """A history encoder out of profiles and a mixer; see `recsys.models.layers.sequence` for its two faces.

    Args:
        dim: width d.
        length: the longest history.
        profiles: H.
        widening: inner width of the mixer over d.
        dropout: on the behaviours and inside the mixer.
    """

    def __init__(self, dim: int, length: int, profiles: int, widening: int, dropout: float) -> None:
        super().__init__()
        self.profiles = RecencyProfiles(dim, length, profiles)
        self.mixer = RecencyMixer(dim, profiles, (), widening, dropout)
        self.drop = Dropout(dropout)

    def states(self, vectors: Tensor) -> Tensor:
        """(B, L, d) right-padded → (B, L + 1, d): entry t has seen the first t vectors."""
        length = vectors.shape[1]
        places = torch.arange(length + 1, device=vectors.device)
        mixed: Tensor = self.mixer(self.profiles(self.drop(vectors), prefix_ages(places, length)))
        return mixed

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) with age (B, L), padding anywhere → (B, d)."""
        mixed: Tensor = self.mixer(self.profiles(vectors, age.unsqueeze(1)))
        return mixed[:, 0]
