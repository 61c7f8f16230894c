"""The manifest of a bundle: what it was made from and the checksum of every file in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import Field, JsonValue, field_validator

from recsys.bundle.component import files_below, first_line
from recsys.cascade.cascade import CascadeConfig
from recsys.config import Config
from recsys.data.dataset import IdKind
from recsys.errors import BundleError
from recsys.files import sha256_of

MANIFEST_FILE: Final = "manifest.json"
FORMAT: Final = 1
"""Version of a bundle's layout; a server refuses one it does not know."""

FEATURES_FOLDER: Final = "features"
USERS_FOLDER: Final = "users"


class FileEntry(Config):
    """What a file must be: hex SHA-256 of its content and its size in bytes."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class DatasetReference(Config):
    """The dataset that a bundle was trained on; `user_ids` says whether its users may be named by keys."""

    name: str
    content_hash: str
    user_ids: IdKind = "integer"


class SplitReference(Config):
    """Which events the models of a bundle have seen.

    Attributes:
        holdout: as the command line says it ("none", "last", "time:0.1").
        protocol: the protocol that the held-out events serve, None without any.
        cut_off_ms: the moment before which all training events lie, for a split by time.
        refit: True when the models were fitted on everything given, so that no event is held out.
    """

    holdout: str
    protocol: Literal["leave_one_out", "global_time"] | None = None
    cut_off_ms: int | None = None
    refit: bool = False


class Manifest(Config):
    """What `manifest.json` holds.

    Attributes:
        format: version of the layout.
        version: name of the bundle's folder, sortable by time of assembly.
        created: UTC time of assembly, ISO 8601.
        package_version: of the recsys that assembled it.
        feature_set_hash, catalogue_hash: what every component must name too.
        dataset, split: what the models have seen.
        feature_definition: the features, as their definition is written.
        cascade: sizes of the stages, and the rule of the merge.
        config: the configuration of the whole training run.
        metrics: component's name → what its training measured.
        twins: protocol → version of the bundle fitted without that protocol's held-out events. The
            report evaluates the twin in place of this bundle.
        files: path below the bundle, "/" between folders → its checksum; all files but the manifest.
    """

    format: int = FORMAT
    version: str
    created: str
    package_version: str
    feature_set_hash: str
    catalogue_hash: str
    dataset: DatasetReference
    split: SplitReference
    feature_definition: dict[str, JsonValue] = Field(default_factory=dict)
    cascade: CascadeConfig = Field(default_factory=CascadeConfig)
    config: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    twins: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
                raise ValueError(f"file {name!r} lies outside the bundle")
        return files


def read_manifest(bundle: Path) -> Manifest:
    """Reads the manifest of the bundle in directory `bundle`.

    Raises:
        BundleError: when there is none, it cannot be understood, or its format is another one.
    """
    path = bundle / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); {bundle} is not a bundle") from None
    except ValueError as error:
        raise BundleError(f"{path}: is not a manifest: {first_line(error)}") from None
    if manifest.format != FORMAT:
        raise BundleError(f"{path}: format {manifest.format}, this version reads {FORMAT}; train the bundle anew")
    return manifest


def entry_of(path: Path) -> FileEntry:
    """The entry that describes a file as it is now."""
    return FileEntry(sha256=sha256_of(path), size=path.stat().st_size)


def describe_files(bundle: Path) -> dict[str, FileEntry]:
    """Entries of all files below `bundle` but the manifest, by path."""
    names = files_below(bundle, without=MANIFEST_FILE)
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter lock
        return dict(zip(names, pool.map(lambda name: entry_of(bundle / name), names), strict=True))


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Compares every file of the bundle with the manifest.

    Raises:
        BundleError: names the first file that is missing, not listed, truncated or altered, or
            that is a link to somewhere else.
    """
    present = set(files_below(bundle, without=MANIFEST_FILE))
    for name in sorted(manifest.files.keys() - present):
        raise BundleError(f"{bundle / name}: is missing; the bundle is refused, restore it or train anew")
    for name in sorted(present - manifest.files.keys()):
        raise BundleError(f"{bundle / name}: is not listed in the manifest; the bundle is refused, remove the file")
    for name, expected in sorted(manifest.files.items()):
        path = bundle / name
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(bundle.resolve()):
            raise BundleError(f"{path}: is not a plain file of the bundle; the bundle is refused")
        if (size := path.stat().st_size) != expected.size:
            raise BundleError(f"{path}: has {size} bytes, the manifest says {expected.size}; the bundle is refused")
    for name, found in describe_files(bundle).items():
        if found.sha256 != manifest.files[name].sha256:
            raise BundleError(
                f"{bundle / name}: was altered (its SHA-256 is not the manifest's); the bundle is refused"
            )
