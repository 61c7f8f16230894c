"""Which bundle may be asked: twins found, leaks refused, whole users drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundle.manifest import read_manifest
from recsys.bundle.publish import publish
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout, split
from recsys.errors import BundleError, PreconditionError
from recsys.evaluate.protocols import held_out_bundles, require_held_out, require_same_cut
from recsys.evaluate.sampling import draw_users
from recsys.testing.planted import Planted, write_planted


def test_a_held_out_bundle_is_evaluated_itself(toy: Dataset, write_bundle) -> None:
    path = write_bundle(toy, "last")
    asked, chosen = held_out_bundles(path)
    assert asked.version == path.name
    assert chosen == {"leave_one_out": path}


def test_a_folder_of_bundles_means_its_current_one(toy: Dataset, write_bundle) -> None:
    path, _ = write_bundle(toy, "last"), write_bundle(toy, "last")
    publish(path.parent, path.name)
    assert held_out_bundles(path.parent)[1] == {"leave_one_out": path}


def test_twins_stand_in_for_a_refit_bundle(toy: Dataset, write_bundle) -> None:
    last, time = write_bundle(toy, "last"), write_bundle(toy, "time:0.2")
    twins = {"global_time": time.name, "leave_one_out": last.name}
    refit = write_bundle(toy, "none", refit=True, twins=twins)
    asked, chosen = held_out_bundles(refit)
    assert asked.version == refit.name
    assert list(chosen.items()) == [("leave_one_out", last), ("global_time", time)]


def test_the_first_of_two_twins_brings_the_other_protocol_along(toy: Dataset, write_bundle) -> None:
    time = write_bundle(toy, "time:0.2")
    last = write_bundle(toy, "last", twins={"global_time": time.name})
    assert held_out_bundles(last)[1] == {"leave_one_out": last, "global_time": time}


def test_a_twin_that_is_gone_is_named(toy: Dataset, write_bundle) -> None:
    path = write_bundle(toy, "none", refit=True, twins={"leave_one_out": "20200101T000000000Z-gone"})
    with pytest.raises(BundleError, match="gone"):
        held_out_bundles(path)


@pytest.mark.parametrize("refit", [True, False])
def test_a_bundle_that_saw_everything_is_refused_with_the_way_out(toy: Dataset, write_bundle, refit: bool) -> None:
    path = write_bundle(toy, "none", refit=refit)
    with pytest.raises(PreconditionError, match=r"trained on every event.*--holdout last --refit"):
        held_out_bundles(path)


def test_a_bundle_that_saw_the_protocols_events_is_refused(toy: Dataset, write_bundle) -> None:
    manifest = read_manifest(write_bundle(toy, "last"))
    assert require_held_out(manifest, "leave_one_out", toy) == Holdout.parse("last")
    with pytest.raises(PreconditionError, match=r"--holdout last\) was trained on events.*--holdout time:0.1"):
        require_held_out(manifest, "global_time", toy)


def test_a_bundle_of_other_data_is_refused(toy: Dataset, tmp_path: Path, write_bundle) -> None:
    manifest = read_manifest(write_bundle(toy, "last"))
    other = write_planted(tmp_path / "other", Planted(users=30, items=20))
    with pytest.raises(PreconditionError, match=r"'toy'.*planted-30x20"):
        require_held_out(manifest, "leave_one_out", other)


def test_a_cut_that_moved_is_refused(toy: Dataset, write_bundle) -> None:
    divided = split(toy, Catalogue.from_dataset(toy), Holdout.parse("time:0.2"))
    manifest = read_manifest(write_bundle(toy, "time:0.2"))
    require_same_cut(manifest, divided)
    moved = manifest.model_copy(update={"split": manifest.split.model_copy(update={"cut_off_ms": 5})})
    with pytest.raises(PreconditionError, match="before 5 ms"):
        require_same_cut(moved, divided)


def test_whole_users_are_drawn(planted: Dataset) -> None:
    divided = split(planted, Catalogue.from_dataset(planted), Holdout.parse("time:0.2"))
    assert divided.test is not None
    drawn = draw_users(divided.test, 50)
    assert 0 < len(drawn) <= 50
    of_drawn = np.isin(divided.test.user, drawn.user)
    assert drawn.target.tolist() == divided.test.target[of_drawn].tolist()
    assert draw_users(divided.test, 0) is divided.test
