"""A component says what it is, and lists exactly the files that lie beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys.bundle.component import (
    ComponentInfo,
    component_directory,
    components_below,
    read_component,
    write_component,
)
from recsys.errors import BundleError


def info(name: str = "popularity", **changes: object) -> ComponentInfo:
    values = {"name": name, "kind": "channel", "type": "static", "feature_set_hash": "f", "catalogue_hash": "c"}
    return ComponentInfo.model_validate(values | changes)


def with_file(out: Path, name: str) -> None:
    directory = component_directory(out, "popularity")
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(b"1234")


def test_a_component_reads_back_as_written_with_its_files_listed(tmp_path: Path) -> None:
    with_file(tmp_path, "scores.npy")
    with_file(tmp_path, "index/vectors.npy")
    directory = write_component(tmp_path, info(metrics={"hr@10": 0.25}, options={"dim": 64}))
    read = read_component(directory)
    assert read.files == ["index/vectors.npy", "scores.npy"]
    assert read.metrics == {"hr@10": 0.25}
    assert read.options == {"dim": 64}
    assert components_below(tmp_path) == [directory]


def test_a_listed_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with_file(tmp_path, "scores.npy")
    with pytest.raises(BundleError, match=r"other\.npy is listed but not there"):
        write_component(tmp_path, info(files=["other.npy", "scores.npy"]))


def test_a_file_that_is_there_but_not_listed_is_refused(tmp_path: Path) -> None:
    with_file(tmp_path, "scores.npy")
    with_file(tmp_path, "stray.npy")
    with pytest.raises(BundleError, match=r"stray\.npy is there but not listed"):
        write_component(tmp_path, info(files=["scores.npy"]))


@pytest.mark.parametrize("name", ["../up", "a/b", "", "Two Tower", "."])
def test_a_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        info(name)


def test_a_folder_without_a_description_is_no_component(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"component\.json: cannot be read"):
        read_component(tmp_path)
    (tmp_path / "component.json").write_text('{"name": "x"}')
    with pytest.raises(BundleError, match=r"component\.json: is not the description"):
        read_component(tmp_path)
