"""`recsys bench otm`: both methods from one start, regret by cutoff, and what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from services.cli.bench import otm_study
from services.cli.bench.otm_study import StudySetting, beam_levels, drawn_world, regret, train
from services.cli.main import app

SMALL = StudySetting(items=60, train=400, test=100, bias=3.0, levels=6, batch=100, epochs=60, beam=50)


def test_training_lowers_the_regret_and_no_phantom_is_wanted() -> None:
    world = drawn_world(SMALL, seed=0)
    assert ((world.chances > 0).sum(dim=0) > 0).sum() == SMALL.items
    assert not world.labels[:, (world.chances == 0).all(dim=0)].any()
    before = regret(world.start, world, SMALL)
    for method in otm_study.METHODS:
        after = regret(train(method, world, SMALL, seed=0), world, SMALL)
        assert all(now < 0.5 * then for now, then in zip(after, before, strict=True)), method
    assert all(value >= 0 for value in before)


def test_a_beam_scores_twice_its_width_a_level_at_most() -> None:
    scores = torch.randn(7, 2 * 64 - 1)
    widths = [nodes.shape[1] for nodes in beam_levels(scores, 64, beam=8)]
    assert widths == [2, 4, 8, 16, 16, 16]
    for nodes in beam_levels(scores, 64, beam=8):
        assert all(len(set(row)) == len(row) for row in nodes.tolist())


def test_tdm_draws_nodes_of_a_level_evenly_and_none_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(255)
    for _ in range(200):
        nodes = otm_study._drawn_nodes(7, 20, generator)
        assert nodes.shape == (20, 100)
        assert all(len(set(row)) == 100 for row in nodes.tolist())
        counts += torch.bincount(nodes.flatten(), minlength=255)
    assert not counts[:127].any()
    assert torch.allclose(counts[127:] / counts.sum(), torch.full((128,), 1 / 128), rtol=0.1)


def test_the_verb_prints_the_published_regret_beside_the_measured_and_writes_both(tmp_path: Path) -> None:
    out = tmp_path / "otm.json"
    found = CliRunner().invoke(app, ["bench", "otm", "--seeds", "1", "--epochs", "1", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "OTM published" in found.output
    report = json.loads(out.read_text())
    assert report["published"]["otm"][3] == 0.1083
    assert len(report["mean"]["tdm"]) == 4
    assert report["regrets"]["otm"][0] == report["mean"]["otm"]
