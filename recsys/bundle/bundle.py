"""Opening a bundle: files checked, hashes compared, then everything that a server or a report needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle.component import (
    COMPONENT_FILE,
    ComponentInfo,
    component_directory,
    components_below,
    files_below,
    read_component,
)
from recsys.bundle.manifest import (
    FEATURES_FOLDER,
    MANIFEST_FILE,
    USERS_FOLDER,
    Manifest,
    check_files,
    read_manifest,
)
from recsys.bundle.openers import CHANNEL_OPENERS, SCORER_OPENERS
from recsys.bundle.users import BundleUsers
from recsys.cascade.cascade import Cascade
from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, ConfigError, FeatureMismatchError
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.ranking.scorer import Scorer
from recsys.retrieval.channel import Channel


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """One whole, opened version of what is served.

    Attributes:
        version: name of its folder.
        path: that folder.
        manifest: what it was made from.
        components: descriptions by component name.
        catalogue: the items; row = position in every array of the bundle.
        features, encoder: the feature set and its NumPy encoder over the catalogue.
        channels, scorers: by name, in the order of the answer's channel masks.
        cascade: the channels and scorers as one `run`.
        users: attributes, newest history and seen ids of the users known at training time.
    """

    version: str
    path: Path
    manifest: Manifest
    components: dict[str, ComponentInfo]
    catalogue: Catalogue
    features: FeatureSet
    encoder: OnlineEncoder
    channels: dict[str, Channel]
    scorers: dict[str, Scorer]
    cascade: Cascade
    users: BundleUsers


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Opens the bundle in directory `path`.

    Args:
        path: bundles/<version>.
        verify: whether to compare every file with its checksum first (about a second a gigabyte).

    Raises:
        BundleError: names the file that is missing, altered, truncated or not listed, the
            component that cannot be opened, or what of the manifest does not fit the components.
        FeatureMismatchError: names the component that was made for other features or items.
    """
    manifest = read_manifest(path)
    if verify:
        check_files(path, manifest)
    components = {info.name: info for info in map(_component, components_below(path))}
    check_hashes(components.values(), manifest)
    catalogue = Catalogue.open(path)
    _same("the catalogue", "catalogue", catalogue.hash, manifest.catalogue_hash)
    features = FeatureSet.open(path / FEATURES_FOLDER)
    _same("the feature set", "feature set", features.hash, manifest.feature_set_hash)
    encoder = OnlineEncoder(features, catalogue)
    channels = {
        name: open_channel(info, component_directory(path, name), catalogue, encoder)
        for name, info in components.items()
        if info.kind == "channel"
    }
    scorers = {
        name: open_scorer(info, component_directory(path, name), catalogue, encoder, channels)
        for name, info in components.items()
        if info.kind == "scorer"
    }
    users = BundleUsers.open(path / USERS_FOLDER)
    try:
        cascade = Cascade(channels.values(), scorers.values(), config=manifest.cascade)
    except ConfigError as error:
        raise BundleError(f"{path / MANIFEST_FILE}: does not fit the components: {error}") from None
    return Bundle(
        manifest.version, path, manifest, components, catalogue, features, encoder, channels, scorers, cascade, users
    )


def _component(directory: Path) -> ComponentInfo:
    """A component's description, once it is about this folder and the files in it."""
    info = read_component(directory)
    if info.name != directory.name:
        raise BundleError(f"{directory}: its {COMPONENT_FILE} is called {info.name!r}; the bundle is refused")
    if info.kind == "calibration":
        raise BundleError(f"component {info.name}: this version opens no calibrations; serve it with a later one")
    present, listed = set(files_below(directory, without=COMPONENT_FILE)), set(info.files)
    for name in sorted(listed - present):
        raise BundleError(f"{directory / name}: is missing; component {info.name} is refused")
    for name in sorted(present - listed):
        raise BundleError(f"component {info.name}: {name} is there but not listed in its {COMPONENT_FILE}")
    return info


def check_hashes(components: Iterable[ComponentInfo], manifest: Manifest) -> None:
    """Compares the feature set and catalogue that every component was made for with the bundle's.

    Raises:
        FeatureMismatchError: names the first component that was made for others.
    """
    for info in components:
        owner = f"component {info.name}"
        _same(owner, "feature set", info.feature_set_hash, manifest.feature_set_hash)
        _same(owner, "catalogue", info.catalogue_hash, manifest.catalogue_hash)


def _same(owner: str, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise FeatureMismatchError(
            f"{owner} has {what} {found[:12]}, the bundle has {expected[:12]}; train them together, from one dataset"
        )


def open_channel(info: ComponentInfo, directory: Path, catalogue: Catalogue, encoder: OnlineEncoder) -> Channel:
    """Opens the channel in a component's folder.

    Raises:
        BundleError: for a type that there is no opener for, or a file that is not what it should be.
    """
    opener = CHANNEL_OPENERS.get(info.type)
    if opener is None:
        raise _unknown_type(info, CHANNEL_OPENERS)
    return opener(info.name, directory, info.options, catalogue, encoder)


def open_scorer(
    info: ComponentInfo,
    directory: Path,
    catalogue: Catalogue,
    encoder: OnlineEncoder,
    channels: Mapping[str, Channel],
) -> Scorer:
    """Opens the scorer in a component's folder, over the bundle's opened channels.

    Raises:
        BundleError: as `open_channel`, and for a scorer of a channel that is not there.
    """
    opener = SCORER_OPENERS.get(info.type)
    if opener is None:
        raise _unknown_type(info, SCORER_OPENERS)
    needed = info.options.get("channel")
    if needed is not None and needed not in channels:
        raise BundleError(
            f"component {info.name}: refers to channel {needed!r}; the bundle has {', '.join(channels) or 'none'}"
        )
    return opener(info.name, directory, info.options, catalogue, encoder, channels)


def _unknown_type(info: ComponentInfo, openers: Iterable[str]) -> BundleError:
    known = ", ".join(openers)
    return BundleError(f"component {info.name}: no opener for type {info.type!r}; this version opens {known}")
