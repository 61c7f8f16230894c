"""What a tree retriever is trained for when its own beam is to be right: OTM (Zhuo et al. 2020, arXiv 2006.15408)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.beam import best_nodes, children
from recsys.models.losses.level_loss import CandidateLoss, fitted_intercept
from recsys.models.losses.pseudo_targets import targets_on_path
from recsys.models.prefix_scores import Prefixes, level_loss, level_scores
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.train.objective import users_at_targets
from recsys.train.ranks import ALONE, Ranks
from recsys.train.tree_levels import AskedLevel, asked_level, shut_nodes
from recsys.train.tree_objective import in_tree, items_of


@dataclass(frozen=True, eq=False)
class _Searched:
    """What a beam did at one level for R prefixes.

    Attributes:
        asked: the nodes that were scored: the candidates, then the target's ancestor and its sibling.
        scores: (R, C + 2) of them, -inf where none.
    """

    asked: AskedLevel
    scores: Tensor


@dataclass(frozen=True, eq=False)
class BeamObjective:
    """A batch of sequences to its mean loss over targets and levels (OTM's Algorithm 1).

    For every prefix the beam search that serves runs with the model as it is, without dropout in the items. All nodes
    that it scores are candidates, the target's ancestors only where the beam met them; a candidate's pseudo-target is
    1 where the model would go down from it to the target. Neither takes a gradient; the loss is binary cross-entropy,
    summed over a level's candidates, of scores less the intercept that suits the batch best: which nodes a beam keeps
    does not depend on it, and what a softmax left is far off any. Learned by the nodes themselves it would push down
    whatever a beam meets until the beam met something else. A leaf that nobody chose is a candidate like any.

    Attributes:
        model: what is trained.
        beam: nodes kept a level; the first level scored is the first wider than that, as in serving.
        exclude_history: whether leaves that the user had, and nodes with no other leaf below, are shut as in answers
            that exclude them: no candidates, and no way that the model would go. The target's own path is not.
        ranks: the workers whose shares of a batch the intercept is to suit.
    """

    model: Tdm
    beam: int = 50
    exclude_history: bool = False
    ranks: Ranks = ALONE

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """The mean loss, a scalar."""
        model = self.model
        batch, targets = in_tree(model, batch.to(model.device))
        prefixes = Prefixes.of(batch.targets >= 0, model.attention.attended)
        history = model.tree.of_rows(batch.history)
        behaviours = model.batch_items(batch.history)
        users = users_at_targets(model.users, batch, F.embedding(behaviours.places(batch.history), behaviours.states))
        searched = self._searched(batch, users.detach(), targets, history, prefixes)
        path, siblings = (torch.stack([at.scores[:, column] for at in searched], dim=1) for column in (-2, -1))
        items = items_of(model, batch, [at.asked.nodes for at in searched])
        factors = model.attention.prefix_factors(history.shape[1])
        total = users.new_zeros(())
        for at, won in zip(searched, targets_on_path(path, siblings).unbind(dim=1), strict=True):
            table = model.table(at.asked.nodes, items).scaled(model.users.logit_scale())
            slope = self._slope(at, won, prefixes)
            total = total + level_loss(users, table, factors, prefixes, at.asked.asked, model.attention.cap, slope)
        return total / (max(1, len(prefixes)) * len(searched))

    @torch.no_grad()
    def _searched(
        self, batch: SequenceBatch, users: Tensor, targets: Tensor, history: Tensor, prefixes: Prefixes
    ) -> list[_Searched]:
        model, tree = self.model, self.model.tree
        factors = model.attention.prefix_factors(history.shape[1])
        first = next((level for level in range(1, tree.depth) if tree.width(level) > self.beam), tree.depth)
        shut = shut_nodes(tree, history, first) if self.exclude_history else {}
        candidates = tree.at_level(first).expand(len(prefixes), -1)
        found = []
        for level in range(first, tree.depth + 1):
            path = tree.ancestors(targets, level)
            wanted = torch.cat([candidates, path[:, None], tree.siblings(path, level)[:, None]], dim=1)
            if level in shut:
                wanted.masked_fill_(shut[level].have(wanted, prefixes) & (wanted != path[:, None]), -1)
            asked = asked_level(tree, level, wanted, history, prefixes)
            with _serving(model.users.items):
                items = items_of(model, batch, [asked.nodes])
            table = model.table(asked.nodes, items).scaled(model.users.logit_scale())
            scores = users.new_empty(wanted.shape, dtype=torch.float32)
            for b, part in level_scores(users, table, factors, prefixes, asked.asked, model.attention.cap):
                rows = slice(prefixes.bounds[b], prefixes.bounds[b + 1])
                scores[rows] = F.pad(part, (0, 1), value=-torch.inf).gather(1, asked.places[rows])
            found.append(_Searched(asked, scores))
            kept = best_nodes(wanted[:, :-2], scores[:, :-2], self.beam, ordered=False)
            candidates = children(kept, tree.inner, tree.alive)
        return found

    def _slope(self, at: _Searched, won: Tensor, prefixes: Prefixes) -> CandidateLoss:
        places, target = at.asked.places[:, :-2], at.asked.places[:, -2]
        widths = torch.tensor([len(columns) for columns in at.asked.asked.columns], device=target.device)
        none = widths[prefixes.sequence]
        asked = places < none[:, None]
        met = won & (places == target[:, None]).any(dim=1)
        intercept = self._intercept(at.scores[:, :-2][asked], met)
        return CandidateLoss(prefixes.bounds, places, torch.where(met, target, none), intercept)

    def _intercept(self, scores: Tensor, met: Tensor) -> Tensor:
        """A scalar, of the scores of all workers' candidates and of how many targets all beams met."""
        scores = self.ranks.concatenated(scores)
        positives = scores.new_tensor(self.ranks.sum([float(met.sum())])[0])
        return fitted_intercept(scores, positives) if len(scores) else positives


@contextmanager
def _serving(module: nn.Module) -> Iterator[None]:
    """The module drops nothing out meanwhile."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
