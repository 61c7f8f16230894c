"""A bundle opens whole, or not at all and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.bundle.bundle import open_bundle
from recsys.bundle.manifest import FileEntry, entry_of
from recsys.bundle.publish import list_bundles
from recsys.errors import BundleError, FeatureMismatchError
from recsys.testing.channel_contract import users_with_histories


@pytest.fixture
def bundle(bundles: Path) -> Path:
    return list_bundles(bundles)[0].path


def rewrite(bundle: Path, name: str, change: Callable[[dict[str, object]], None]) -> None:
    """Changes a JSON file of the bundle and makes the manifest agree with it."""
    path = bundle / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if name != "manifest.json":
        entry: FileEntry = entry_of(path)
        rewrite(bundle, "manifest.json", lambda manifest: manifest["files"].update({name: entry.model_dump()}))


def test_everything_that_a_server_needs_is_opened(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.version == bundle.name
    assert list(opened.channels) == ["item_knn", "popularity", "two_tower"]
    assert list(opened.scorers) == ["two_tower_scorer"]
    assert opened.catalogue.ids.tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert opened.features.hash == opened.manifest.feature_set_hash
    assert opened.cascade.channels == tuple(opened.channels)
    state = opened.users.lookup(1)
    assert state is not None
    assert state.history_ids.tolist() == [10, 20, 30, 40]


CHANNELS = ("item_knn", "popularity", "two_tower")


def merging(bundle: Path, **rule: object) -> Path:
    """Puts a rule into the manifest."""
    rewrite(bundle, "manifest.json", lambda manifest: manifest.update(cascade={"merge": rule}))
    return bundle


@pytest.mark.parametrize("channel", CHANNELS)
def test_lists_are_merged_by_the_curves_of_the_manifest(bundle: Path, channel: str) -> None:
    curves = {name: [9, 8] if name == channel else [0.1, 0] for name in CHANNELS}
    opened = open_bundle(merging(bundle, places=[1, 501], log_odds=curves))
    users = users_with_histories([[1, 5]])
    first = opened.channels[channel].recall(users, 3).rows
    assert opened.cascade.recall(users, len(first)).candidates.rows.tolist() == first.tolist()


def test_a_rule_that_is_none_or_of_other_channels_is_refused_with_the_manifest_s_name(bundle: Path) -> None:
    rising = merging(bundle, places=[1, 501], log_odds={name: [1, 2] for name in CHANNELS})
    with pytest.raises(BundleError, match=r"manifest\.json: .*cascade\.merge: .*'item_knn' rise with the place"):
        open_bundle(rising)
    partial = merging(bundle, places=[1, 501], log_odds={"popularity": [1, 0]})
    with pytest.raises(BundleError, match=r"manifest\.json: .*curves for popularity, and none for item_knn, two_tower"):
        open_bundle(partial)


def test_a_component_for_other_features_is_refused_by_its_name(bundle: Path) -> None:
    rewrite(bundle, "components/item_knn/component.json", lambda info: info.update(feature_set_hash="other"))
    with pytest.raises(FeatureMismatchError, match="component item_knn has feature set other"):
        open_bundle(bundle)


def test_a_component_for_another_catalogue_is_refused_by_its_name(bundle: Path) -> None:
    rewrite(bundle, "components/popularity/component.json", lambda info: info.update(catalogue_hash="other"))
    with pytest.raises(FeatureMismatchError, match="component popularity has catalogue other"):
        open_bundle(bundle)


def test_a_bundle_whose_own_items_are_others_is_refused(bundle: Path) -> None:
    rewrite(bundle, "items.json", lambda info: info.update(hash="0" * 64))
    with pytest.raises((FeatureMismatchError, BundleError), match="catalogue"):
        open_bundle(bundle)


def test_a_type_without_an_opener_is_refused_with_those_there_are(bundle: Path) -> None:
    rewrite(bundle, "components/item_knn/component.json", lambda info: info.update(type="oracle"))
    known = "vector, interests, static"
    with pytest.raises(BundleError, match=rf"item_knn: no opener for type 'oracle'; this version opens {known}"):
        open_bundle(bundle)


def test_a_kind_that_nothing_here_opens_is_refused_rather_than_left_out(bundle: Path) -> None:
    rewrite(bundle, "components/item_knn/component.json", lambda info: info.update(kind="calibration"))
    with pytest.raises(BundleError, match="item_knn: this version opens no calibrations"):
        open_bundle(bundle)


def test_a_scorer_of_a_channel_that_is_not_there_is_refused(bundle: Path) -> None:
    change = {"options": {"channel": "nobody"}}
    rewrite(bundle, "components/two_tower_scorer/component.json", lambda info: info.update(change))
    with pytest.raises(BundleError, match="two_tower_scorer: refers to channel 'nobody'"):
        open_bundle(bundle)


def test_a_component_whose_files_are_not_those_it_lists_is_refused(bundle: Path) -> None:
    extra = bundle / "components/popularity/extra.npy"
    extra.write_bytes(b"x")
    entry = entry_of(extra).model_dump()
    name = extra.relative_to(bundle).as_posix()
    rewrite(bundle, "manifest.json", lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(BundleError, match=r"popularity: extra\.npy is there but not listed"):
        open_bundle(bundle)


def test_a_component_in_a_folder_of_another_name_is_refused(bundle: Path) -> None:
    rewrite(bundle, "components/popularity/component.json", lambda info: info.update(name="fame"))
    with pytest.raises(BundleError, match=r"components/popularity.*is called 'fame'"):
        open_bundle(bundle)


def test_verification_can_be_left_out_but_a_missing_file_is_found_all_the_same(bundle: Path) -> None:
    (bundle / "components/popularity/scores.npy").unlink()
    with pytest.raises(BundleError, match=r"scores\.npy"):
        open_bundle(bundle, verify=False)
