"""OTM's objective: the candidates of the very beam that serves, and the targets of its own greedy way down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.index.item_tree import ItemTree
from recsys.index.tree_search import TreeSearch
from recsys.models.losses.level_loss import fitted_intercept
from recsys.models.losses.pseudo_targets import pseudo_targets
from recsys.models.prefix_scores import Prefixes
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.models.tree_nodes import TreeNodes
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.beam_objective import BeamObjective
from recsys.train.export import node_attention
from recsys.train.objective import users_at_targets
from recsys.train.tree_objective import TreeObjective

ITEMS, LENGTH = 21, 6


def model(slots: int, **changes: object) -> Tdm:
    torch.manual_seed(0)
    shape = TwoTowerShape(
        **{"item_codes": ITEMS + 2, "dim": 8, "history_length": LENGTH, "history": "recency", "dropout": 0.0, **changes}  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(0)
    rows = np.full(slots, -1, np.int32)
    rows[rng.permutation(slots)[:ITEMS]] = rng.permutation(ITEMS)
    found = Tdm(TwoTower(shape, torch.arange(2, ITEMS + 2), {}), ItemTree(rows, ITEMS), attended=4)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return found


def batch() -> SequenceBatch:
    rows = torch.randint(0, ITEMS, (4, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    targets = rows.clone()
    targets[1, 3:] = -1
    targets[2] = -1
    return SequenceBatch(rows[:, :-1], targets, samples=int((targets >= 0).sum()))


def all_scores(tdm: Tdm, had: Tensor) -> Tensor:
    """(2S - 1,) scores of all nodes after a history, an early leaf's as the last level has them."""
    tree, items = tdm.tree, tdm.batch_items(torch.arange(ITEMS))
    user = tdm.users.user_vectors(tdm.users.user_states(items.states[had][None], {}))[0, -1]
    scores = torch.full((2 * tree.slots - 1,), -torch.inf)
    for level in range(1, tree.depth + 1):
        nodes = tree.at_level(level)
        above = torch.searchsorted(nodes, tree.ancestors(tree.of_rows(had), level))
        vectors, age = tdm.vectors(nodes, items), torch.arange(len(had), 0, -1)
        scores[nodes] = tdm.newest_scores(user[None], tdm.bare(vectors[above])[None], age[None], vectors)[0]
    return scores


def nothing_left(tree: TreeNodes, had: Tensor, target: int) -> Tensor:
    """(2S - 1,) nodes below which a user had all that there is but the target."""
    left = tree.alive.clone()
    left[had] = False
    left[target] = True
    for node in reversed(range(tree.inner)):
        left[node] = left[2 * node + 1] | left[2 * node + 2]
    return ~left


def by_hand(tdm: Tdm, given: SequenceBatch, beam: int, *, exclude: bool) -> Tensor:
    """One prefix after the other, every node of the tree scored; slots are a power of two, so that no leaf is early."""
    tree = tdm.tree
    wide = [level for level in range(1, tree.depth) if tree.width(level) > beam]
    levels = range(wide[0] if wide else tree.depth, tree.depth + 1)
    asked_at: dict[int, list[tuple[Tensor, Tensor]]] = {level: [] for level in levels}
    for b, length in (given.targets >= 0).nonzero().tolist():
        had = given.history[b, :length]
        scores = all_scores(tdm, had)
        labels = torch.zeros(1, tree.slots)
        target = int(tree.of_rows(given.targets[b, length]))
        labels[0, target - tree.inner] = 1.0
        if exclude:
            scores = scores.masked_fill(nothing_left(tree, tree.of_rows(had), target), -torch.inf)
        wanted = pseudo_targets(scores.detach()[None], labels)[0]
        candidates = tree.at_level(levels[0])
        for level in levels:
            candidates = candidates[torch.isfinite(scores[candidates])]
            asked_at[level].append((scores[candidates], wanted[candidates]))
            kept = candidates[scores[candidates].topk(min(beam, len(candidates))).indices]
            below = torch.cat([2 * kept + 1, 2 * kept + 2])
            candidates = below[below < len(scores)]
            candidates = candidates[tree.alive[candidates]]
    loss = torch.zeros(())
    for level in levels:
        logits, labels = (torch.cat(parts) for parts in zip(*asked_at[level], strict=True))
        logits = logits - fitted_intercept(logits.detach(), labels.sum())
        loss = loss + F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return loss / (given.samples * len(levels))


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("beam", [1, 3, 100])
def test_the_loss_is_that_of_each_prefixs_beam_alone(beam: int, exclude: bool) -> None:
    tdm, given = model(32), batch()
    loss, expected = BeamObjective(tdm, beam, exclude)(given), by_hand(tdm, given, beam, exclude=exclude)
    assert torch.allclose(loss, expected, rtol=1e-5)
    parameters = dict(tdm.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    for name, ours, theirs in zip(parameters, found, wanted, strict=True):
        ours = torch.zeros_like(parameters[name]) if ours is None else ours
        theirs = torch.zeros_like(parameters[name]) if theirs is None else theirs
        assert torch.allclose(ours, theirs, atol=2e-5), name


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("kind", ["beam", "softmax"])
def test_towers_in_half_precision_change_the_loss_a_little(kind: str, exclude: bool) -> None:
    """Trainers compute in autocast where a device is good at bfloat16; scores of levels are not cast."""
    tdm, given = model(32), batch()
    parameters = [tdm.attention.key, tdm.attention.value]
    beam, softmax = BeamObjective(tdm, 100, exclude), TreeObjective(tdm, exclude_history=exclude)
    objective = beam if kind == "beam" else softmax
    loss = objective(given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = objective(given)
    assert cast.dtype == torch.float32
    assert torch.allclose(cast, loss, rtol=0.02)
    for ours, theirs in zip(torch.autograd.grad(cast, parameters), torch.autograd.grad(loss, parameters), strict=True):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("positives", [0, 1, 7, 50])
def test_the_intercept_makes_chances_add_up(positives: int) -> None:
    scores = 3.0 * torch.randn(50, generator=torch.Generator().manual_seed(0)) + 11.0
    chances = torch.sigmoid(scores - fitted_intercept(scores, torch.tensor(positives)))
    assert float(chances.sum()) == pytest.approx(min(max(positives, 0.5), 49.5), abs=0.01)


@pytest.mark.parametrize("length", [0, LENGTH])
def test_a_batch_without_targets_or_without_behaviours_has_a_loss_too(length: int) -> None:
    tdm = model(ITEMS)
    history, nothing = torch.zeros(2, length, dtype=torch.long), torch.full((2, length + 1), -1)
    objective = BeamObjective(tdm, beam=2, exclude_history=True)
    assert objective(SequenceBatch(history, nothing)) == 0.0
    only_first = torch.cat([torch.tensor([[3], [5]]), nothing[:, 1:]], dim=1)
    assert torch.isfinite(objective(SequenceBatch(history, only_first, samples=2)))


@pytest.mark.parametrize("slots", [ITEMS, 26, 32])
def test_a_beam_in_training_asks_what_one_asks_that_serves(slots: int) -> None:
    """Leaves that the user had are shut, nodes above them alone too; the target's own path never is."""
    tdm, given = model(slots), batch()
    tree = tdm.tree
    attention, search = node_attention(tdm.eval()), TreeSearch(tree.held)
    prefixes = Prefixes.of(given.targets >= 0, 4)
    targets, history = tree.of_rows(given.targets[given.targets >= 0]), tree.of_rows(given.history)
    items = tdm.batch_items(given.history)
    users = users_at_targets(tdm.users, given, F.embedding(items.places(given.history), items.states))
    *_, last = BeamObjective(tdm, beam=4, exclude_history=True)._searched(
        given, users.detach(), targets, history, prefixes
    )
    asked_for = last.asked.places[:, :-2]
    compared = changed = 0
    for row, (b, length) in enumerate(zip(prefixes.sequence.tolist(), prefixes.length.tolist(), strict=True)):
        had = given.history[b, :length].numpy().astype(np.int32)
        columns = last.asked.asked.columns[b]
        leaves = last.asked.nodes[columns[asked_for[row][asked_for[row] < len(columns)]]]
        rows = set(tree.rows[leaves - tree.inner].tolist())
        target = int(given.targets[b, length])
        if target in had.tolist():
            continue
        compared += 1
        vector = (users[row] / tdm.users.logit_scale()).detach().numpy()
        served = search.search(attention.user(vector, had), 4, 4, excluded=had)
        everything = search.search(attention.user(vector, had), 4, 4)
        assert set(served.rows.tolist()) <= rows
        assert not rows & set(had.tolist())
        changed += served.rows.tolist() != everything.rows.tolist()
    assert compared > 10
    assert changed > 1


def test_leaves_that_end_early_meet_the_others_in_the_last_level() -> None:
    tdm, given = model(ITEMS), batch()
    prefixes = Prefixes.of(given.targets >= 0, 4)
    items = tdm.batch_items(given.history)
    users = users_at_targets(tdm.users, given, F.embedding(items.places(given.history), items.states))
    targets, history = tdm.tree.of_rows(given.targets[given.targets >= 0]), tdm.tree.of_rows(given.history)
    (last,) = BeamObjective(tdm, beam=100)._searched(given, users, targets, history, prefixes)
    assert last.scores.shape == (given.samples, ITEMS + 2)
    assert torch.isfinite(last.scores[:, :-1]).all()
    early = targets < (1 << tdm.tree.depth) - 1
    assert torch.isinf(last.scores[early, -1]).all()
    assert torch.isfinite(BeamObjective(tdm, beam=2)(given))


def test_training_goes_on_where_sampled_levels_left_off() -> None:
    """Each item is followed by one other. From the start on, a narrow beam would hardly ever meet a target."""
    tdm = model(32).train()
    for parameter in tdm.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    follows = torch.arange(ITEMS).roll(5)
    rows = torch.stack([torch.arange(ITEMS), follows], dim=1)
    targets = rows.clone()
    targets[:, 0] = -1
    given = SequenceBatch(rows[:, :-1], targets, samples=ITEMS)
    optimiser = torch.optim.Adam(tdm.parameters(), lr=0.02)

    def trained(objective: TreeObjective | BeamObjective, steps: int) -> int:
        """How many items' followers a beam of two then puts first."""
        for _ in range(steps):
            optimiser.zero_grad()
            objective(given).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return sum(_first_found(tdm, item, beam=2) == follows[item] for item in range(ITEMS))

    objective = BeamObjective(tdm, beam=2)
    before, loss = trained(TreeObjective(tdm), 25), float(objective(given).detach())
    after = trained(objective, 40)
    assert 0.5 * ITEMS < before <= after
    assert float(objective(given).detach()) < 0.5 * loss


def _first_found(tdm: Tdm, item: int, beam: int) -> int:
    scores = all_scores(tdm, torch.tensor([item]))
    kept = torch.tensor([0])
    while (kept < tdm.tree.inner).any():
        below = torch.cat([2 * kept + 1, 2 * kept + 2])
        kept = below[scores[below].topk(min(beam, len(below))).indices]
    return int(tdm.tree.rows[kept[0] - tdm.tree.inner])
