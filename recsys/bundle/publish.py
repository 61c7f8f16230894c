"""Which bundle is served: assemble a version, verify it, make it current, go back to the one before."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from recsys.bundle.component import (
    COMPONENTS_FOLDER,
    ComponentInfo,
    component_directory,
    read_component,
)
from recsys.bundle.manifest import MANIFEST_FILE, FileEntry, Manifest, describe_files, read_manifest
from recsys.errors import BundleError
from recsys.files import sync, sync_directory, temporary_directory, write_text

CURRENT_FILE: Final = "CURRENT"
"""Names the version to serve; replaced by one atomic rename."""
HISTORY_FILE: Final = "PUBLISHED"
"""Versions in the order they were published, one a line; the last one that CURRENT names counts."""
LOCK_FILE: Final = ".lock"
_TEMPORARY: Final = ".assembling."
_VERSION: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found in a bundle that is whole.

    Attributes:
        version: the bundle.
        files, bytes: how many files the manifest lists, and their size.
        components: descriptions of its components.
    """

    version: str
    files: int
    bytes: int
    components: tuple[ComponentInfo, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `list_bundles`: a version, its manifest (None when unreadable) and whether it is served."""

    version: str
    path: Path
    manifest: Manifest | None
    current: bool


def assemble(
    bundles: Path,
    manifest: Manifest,
    components: Sequence[Path],
    write_content: Callable[[Path], None],
) -> Path:
    """Puts a bundle together in a temporary folder, syncs it and gives it its name in one rename.

    A process killed on the way leaves a hidden folder, which the next call clears away; a reader
    sees a version whole or not at all.

    Args:
        bundles: the folder of all versions; made when it is not there.
        manifest: everything but `version`, `created`, `metrics` and `files`, which are filled in here.
        components: component folders to copy.
        write_content: writes items, features and users into the folder it is given.

    Returns:
        bundles/<version>; version = UTC time of assembly and a short hash of the content.

    Raises:
        BundleError: two components with one name, or one made for other features or items.
    """
    infos = [read_component(directory) for directory in components]
    _refuse_twice(infos)
    with temporary_directory(bundles, _TEMPORARY) as folder:
        write_content(folder)
        for info, directory in zip(infos, components, strict=True):
            shutil.copytree(directory, component_directory(folder, info.name))
        now = datetime.now(UTC)
        files = describe_files(folder)
        complete = manifest.model_copy(
            update={
                "version": _version_of(now, files, manifest),
                "created": now.isoformat(timespec="seconds"),
                "metrics": {info.name: info.metrics for info in infos},
                "files": files,
            }
        )
        write_text(folder / MANIFEST_FILE, complete.model_dump_json(indent=2) + "\n")
        sync_directory(folder)
        target = bundles / complete.version
        folder.rename(target)
        sync(bundles)
    return target


def verify(path: Path) -> Verified:
    """Checks every file against the manifest, then opens the bundle as a server would.

    Raises:
        BundleError: names the file or component that is wrong.
        FeatureMismatchError: a component was made for other features or items.
    """
    from recsys.bundle.bundle import open_bundle  # opening needs every engine, listing none

    bundle = open_bundle(path, verify=True)
    files = bundle.manifest.files
    size = sum(entry.size for entry in files.values())
    return Verified(bundle.version, len(files), size, tuple(bundle.components.values()))


def publish(bundles: Path, version: str) -> Path:
    """Verifies a version and makes it the one to serve, by an atomic replacement of CURRENT.

    Publishing the current version again changes nothing.

    Raises:
        BundleError: when there is no such version or it is not whole; what was current stays.
    """
    path = bundle_path(bundles, version)
    verify(path)
    with _locked(bundles):
        served = published(bundles)
        if not served or served[-1] != version:
            _write_history(bundles, [*served, version])
        # CURRENT goes last: killed between the two, the older version is still the current one.
        write_text(bundles / CURRENT_FILE, version + "\n")
    return path


def rollback(bundles: Path) -> Path:
    """Makes the version that was served before the current one current again, once verified.

    Versions that have been deleted since are passed over.

    Raises:
        BundleError: when nothing was served before, or that version is not whole.
    """
    with _locked(bundles):
        served = published(bundles)
        earlier = [version for version in served[:-1] if version != served[-1] and (bundles / version).is_dir()]
        if not earlier:
            raise BundleError(f"{bundles}: no version was served before the current one; see `recsys bundle list`")
        verify(bundles / earlier[-1])
        write_text(bundles / CURRENT_FILE, earlier[-1] + "\n")
        _write_history(bundles, _through(served[:-1], earlier[-1]))
    return bundles / earlier[-1]


def published(bundles: Path) -> list[str]:
    """Versions in the order they were published, up to the one that CURRENT names; empty before the first.

    Some may have been deleted since.
    """
    current_file, path = bundles / CURRENT_FILE, bundles / HISTORY_FILE
    if not current_file.is_file():
        return []
    served = current_file.read_text(encoding="utf-8").strip()
    lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return _through(lines, served) if served in lines else [*lines, served]


def current(bundles: Path) -> Path:
    """The version that CURRENT names.

    Raises:
        BundleError: when nothing was published yet, or CURRENT names no version that is there.
    """
    try:
        text = (bundles / CURRENT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        raise BundleError(
            f"{bundles}: nothing is published there (no {CURRENT_FILE}); run `recsys train` or `recsys bundle publish`"
        ) from None
    return bundle_path(bundles, text)


def bundle_path(bundles: Path, version: str) -> Path:
    """bundles/<version>, where that is a bundle.

    Raises:
        BundleError: for a version that is not there, one without its manifest, or a name that
            could leave the folder.
    """
    path = bundles / version
    named = _VERSION.match(version) is not None
    if named and path.is_dir() and not (path / MANIFEST_FILE).is_file():
        raise BundleError(f"{path / MANIFEST_FILE}: is missing; the bundle is refused, restore it or train anew")
    if not named or not path.is_dir():
        there = ", ".join(_versions(bundles)) or "none"
        raise BundleError(f"{bundles}: there is no version {version!r}; there are: {there}")
    return path


def resolve(path: Path) -> Path:
    """A bundle's folder from either that folder or a folder of versions (then its current one).

    Raises:
        BundleError: when it is neither.
    """
    return path if (path / MANIFEST_FILE).is_file() else current(path)


def list_bundles(bundles: Path) -> list[Listed]:
    """All versions, oldest first."""
    try:
        served = current(bundles).name
    except BundleError:
        served = ""
    return [
        Listed(version, bundles / version, _manifest_or_none(bundles / version), version == served)
        for version in _versions(bundles)
    ]


def _versions(bundles: Path) -> list[str]:
    if not bundles.is_dir():
        return []
    return sorted(path.name for path in bundles.iterdir() if path.is_dir() and _VERSION.match(path.name))


def _manifest_or_none(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except BundleError:
        return None


def _refuse_twice(infos: Sequence[ComponentInfo]) -> None:
    names = [info.name for info in infos]
    for name in names:
        if names.count(name) > 1:
            raise BundleError(f"{COMPONENTS_FOLDER}/{name}: two components have this name; rename one")


def _version_of(now: datetime, files: dict[str, FileEntry], manifest: Manifest) -> str:
    content = {name: entry.sha256 for name, entry in files.items()}
    made_from = manifest.model_dump_json(exclude={"version", "created", "metrics", "files"})
    digest = hashlib.sha256((json.dumps(content, sort_keys=True) + made_from).encode()).hexdigest()
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{digest[:8]}"


def _through(versions: Sequence[str], last: str) -> list[str]:
    """The versions up to the last mention of `last`."""
    return list(versions[: len(versions) - list(reversed(versions)).index(last)])


def _write_history(bundles: Path, versions: Sequence[str]) -> None:
    write_text(bundles / HISTORY_FILE, "".join(f"{version}\n" for version in versions))


@contextmanager
def _locked(bundles: Path) -> Iterator[None]:
    """Holds the folder's lock; the kernel lets go of it when the process dies."""
    bundles.mkdir(parents=True, exist_ok=True)
    with (bundles / LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
