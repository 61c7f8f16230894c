"""Publishing is one atomic step, going back is another, and nothing that happens in between breaks either."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from recsys.bundle.manifest import read_manifest
from recsys.bundle.publish import bundle_path, current, list_bundles, publish, resolve, rollback, verify
from recsys.errors import BundleError


def versions(bundles: Path) -> list[str]:
    return [listed.version for listed in list_bundles(bundles)]


def test_versions_sort_by_the_time_of_assembly(bundles: Path) -> None:
    listed = list_bundles(bundles)
    assert len(listed) == 2
    created = [entry.manifest.created for entry in listed if entry.manifest]
    assert created == sorted(created)
    assert not any(entry.current for entry in listed)


def test_verify_counts_what_it_has_checked(bundles: Path) -> None:
    path = list_bundles(bundles)[0].path
    found = verify(path)
    assert found.version == path.name
    assert found.files == len(read_manifest(path).files)
    assert [info.name for info in found.components] == ["item_knn", "popularity", "two_tower", "two_tower_scorer"]


def test_publish_makes_a_version_current_and_roll_back_the_one_before(
    bundles: Path, another: Callable[[], str]
) -> None:
    first, second = versions(bundles)
    third = another()
    for version in (first, second, third):
        publish(bundles, version)
        assert current(bundles).name == version
        assert resolve(bundles) == bundles / version
    assert rollback(bundles).name == second
    assert rollback(bundles).name == first
    with pytest.raises(BundleError, match="no version was served before"):
        rollback(bundles)
    assert current(bundles).name == first


def test_roll_back_follows_what_was_served_not_the_names(bundles: Path) -> None:
    older, newer = versions(bundles)
    for version in (newer, older, newer, newer):
        publish(bundles, version)
    assert [rollback(bundles).name, rollback(bundles).name] == [older, newer]


def test_roll_back_passes_over_versions_that_were_deleted(bundles: Path, another: Callable[[], str]) -> None:
    first, second = versions(bundles)
    for version in (first, second, another()):
        publish(bundles, version)
    shutil.rmtree(bundles / second)
    assert rollback(bundles).name == first


def test_a_damaged_version_is_not_published_and_the_old_one_stays(bundles: Path) -> None:
    first, second = versions(bundles)
    publish(bundles, first)
    scores = bundles / second / "components" / "popularity" / "scores.npy"
    scores.write_bytes(scores.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"popularity/scores\.npy"):
        publish(bundles, second)
    assert current(bundles).name == first


def test_roll_back_to_a_damaged_version_is_refused(bundles: Path) -> None:
    first, second = versions(bundles)
    publish(bundles, first)
    publish(bundles, second)
    (bundles / first / "items.json").unlink()
    with pytest.raises(BundleError, match=r"items\.json: is missing"):
        rollback(bundles)
    assert current(bundles).name == second


def test_a_version_without_its_manifest_is_refused_by_that_files_name(bundles: Path) -> None:
    first, _ = versions(bundles)
    publish(bundles, first)
    (bundles / first / "manifest.json").unlink()
    with pytest.raises(BundleError, match=rf"{first}/manifest\.json: is missing"):
        current(bundles)


@pytest.mark.parametrize("name", ["../bundles", "/etc", "", ".", "nope", "a/b"])
def test_a_name_that_is_no_version_is_refused_with_those_there_are(bundles: Path, name: str) -> None:
    with pytest.raises(BundleError, match="there is no version") as refusal:
        bundle_path(bundles, name)
    assert versions(bundles)[0] in str(refusal.value)


def test_a_folder_without_anything_published_says_so(bundles: Path, tmp_path: Path) -> None:
    for folder in (bundles, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match="nothing is published"):
            current(folder)


def test_publishers_at_the_same_time_leave_one_of_their_versions_and_a_whole_history(bundles: Path) -> None:
    names = versions(bundles)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda version: publish(bundles, version), names * 8))
    served = (bundles / "PUBLISHED").read_text().split()
    assert current(bundles).name == served[-1]
    assert set(served) == set(names)
    assert all(left != right for left, right in pairwise(served))


ASSEMBLER = """
import sys
from pathlib import Path
from recsys.bundle.publish import publish
from recsys.data.dataset import Dataset
from recsys.testing.bundles import write_toy_bundle

data, bundles, work = map(Path, sys.argv[1:])
for attempt in range(1000):
    path = write_toy_bundle(bundles, Dataset.open(data), work / str(attempt))
    publish(bundles, path.name)
    print(path.name, flush=True)
"""


def test_killed_at_any_moment_what_is_there_is_whole(two_versions: Path, tmp_path: Path) -> None:
    """A real process assembles and publishes without end; it is killed at four moments."""
    bundles, script = tmp_path / "bundles", tmp_path / "assembler.py"
    script.write_text(ASSEMBLER)
    told: list[str] = []
    for kill in range(4):
        arguments = [str(two_versions.parent / "data"), str(bundles), str(tmp_path / f"work{kill}")]
        process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told.append(process.stdout.readline().strip())
        time.sleep(0.017 * kill)
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        told += rest.split()
        assert verify(current(bundles)).version >= told[-1]
        for listed in list_bundles(bundles):
            verify(listed.path)
    assert set(told) <= set(versions(bundles))
    assert len(list(bundles.glob(".assembling.*"))) <= 1, "the dead leave at most the last folder behind"
