"""The manifest finds every way in which a bundle can differ from what was assembled."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.bundle.manifest import (
    DatasetReference,
    Manifest,
    SplitReference,
    check_files,
    describe_files,
    read_manifest,
)
from recsys.errors import BundleError


def whole(folder: Path) -> Manifest:
    """Writes two files and the manifest that describes them."""
    (folder / "deep").mkdir(parents=True)
    (folder / "items.arrow").write_bytes(b"items" * 100)
    (folder / "deep" / "vectors.npy").write_bytes(b"vectors" * 100)
    manifest = Manifest(
        version="v1",
        created="2024-01-01T00:00:00+00:00",
        package_version="1",
        feature_set_hash="f",
        catalogue_hash="c",
        dataset=DatasetReference(name="toy", content_hash="d"),
        split=SplitReference(holdout="last", protocol="leave_one_out"),
        files=describe_files(folder),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


def test_a_whole_bundle_passes_and_its_manifest_reads_back(tmp_path: Path) -> None:
    manifest = whole(tmp_path)
    check_files(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert set(manifest.files) == {"items.arrow", "deep/vectors.npy"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "name", "says"),
    [
        (lambda f: (f / "items.arrow").write_bytes(b"items" * 99), "items.arrow", "495 bytes, the manifest says 500"),
        (lambda f: flip(f / "deep/vectors.npy"), "deep/vectors.npy", "altered"),
        (lambda f: (f / "items.arrow").unlink(), "items.arrow", "missing"),
        (lambda f: (f / "deep/extra.bin").write_bytes(b"x"), "deep/extra.bin", "not listed"),
        (lambda f: (f / "deep/link").symlink_to("/etc/hostname"), "deep/link", "not listed"),
    ],
    ids=["truncated", "altered", "missing", "additional", "additional-link"],
)
def test_a_file_that_is_not_as_assembled_is_refused_by_its_name(tmp_path: Path, harm, name: str, says: str) -> None:
    manifest = whole(tmp_path)
    harm(tmp_path)
    with pytest.raises(BundleError) as refusal:
        check_files(tmp_path, manifest)
    assert str(tmp_path / name) in str(refusal.value)
    assert says in str(refusal.value)


def test_a_listed_file_replaced_by_a_link_is_refused_even_with_the_same_content(tmp_path: Path) -> None:
    bundle, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    manifest = whole(bundle)
    (bundle / "items.arrow").rename(elsewhere)
    (bundle / "items.arrow").symlink_to(elsewhere)
    with pytest.raises(BundleError, match=r"items\.arrow: is not a plain file"):
        check_files(bundle, manifest)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "deep/../../outside", "..", "", "a\\b"])
def test_a_manifest_that_names_a_file_outside_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    manifest = whole(tmp_path)
    entry = manifest.files["items.arrow"]
    hostile = manifest.model_copy(update={"files": {**manifest.files, name: entry}})
    (tmp_path / "manifest.json").write_text(hostile.model_dump_json())
    with pytest.raises(BundleError, match="outside the bundle"):
        read_manifest(tmp_path)


def test_what_is_no_manifest_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json: is not a manifest: Invalid JSON.*column \d+$"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"is not a manifest: version: Field required$"):
        read_manifest(tmp_path)


def test_a_manifest_of_a_later_format_is_refused(tmp_path: Path) -> None:
    later = whole(tmp_path).model_copy(update={"format": 2})
    (tmp_path / "manifest.json").write_text(later.model_dump_json())
    with pytest.raises(BundleError, match="format 2, this version reads 1"):
        read_manifest(tmp_path)
