"""Which bundle may be asked about which events: twins are found, leaks refused.

A bundle is only evaluated on events that it was not trained on. A refit bundle has seen everything; what stands in
for it is its twin of each protocol: the same configuration, fitted without that protocol's held-out events.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.publish import bundle_path, resolve
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout, Split
from recsys.errors import PreconditionError

PROTOCOL_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {"leave_one_out": "Leave one out", "global_time": "Global time split"}
)
"""The protocols in the order of the report, with their headings."""


def held_out_bundles(path: Path) -> tuple[Manifest, dict[str, Path]]:
    """The bundle asked about, and by protocol the bundle to evaluate in its place.

    Args:
        path: a bundle, or a folder of bundles (its current one is meant).

    Returns:
        The manifest of the bundle asked about; protocol → folder of the bundle without those events.

    Raises:
        BundleError: when there is no such bundle, or a twin that it names is gone.
        PreconditionError: when it was trained on everything and names no twin.
    """
    folder = resolve(path)
    manifest = read_manifest(folder)
    chosen = {protocol: bundle_path(folder.parent, version) for protocol, version in manifest.twins.items()}
    if manifest.split.protocol is not None and not manifest.split.refit:
        chosen[manifest.split.protocol] = folder
    if not chosen:
        raise PreconditionError(
            f"bundle {manifest.version} was trained on every event (--holdout {manifest.split.holdout}"
            f"{', refit' if manifest.split.refit else ''}) and names no held-out twin, so no event is left to ask it "
            "about; train with --holdout last --refit, which leaves a twin beside it"
        )
    return manifest, {protocol: chosen[protocol] for protocol in PROTOCOL_TITLES if protocol in chosen}


def require_held_out(manifest: Manifest, protocol: str, dataset: Dataset) -> Holdout:
    """The hold-out of a bundle, once it is sure that the bundle has not seen the protocol's test events.

    Raises:
        PreconditionError: when it has, or may have: another protocol, a refit, other data.
    """
    of = manifest.split
    if of.refit or of.protocol != protocol:
        raise PreconditionError(
            f"bundle {manifest.version} (--holdout {of.holdout}{', refit' if of.refit else ''}) was trained on events "
            f"that the protocol {protocol} asks about; train one with --holdout "
            f"{'last' if protocol == 'leave_one_out' else 'time:0.1'} and evaluate that"
        )
    if manifest.dataset.content_hash != dataset.info.content_hash:
        raise PreconditionError(
            f"bundle {manifest.version} was trained on dataset {manifest.dataset.name!r} "
            f"({manifest.dataset.content_hash[:12]}), --data {dataset.path} holds {dataset.info.name!r} "
            f"({dataset.info.content_hash[:12]}): which of its events the models have seen is unknown; "
            "give the dataset it was trained on, or train on this one"
        )
    return Holdout.parse(of.holdout)


def require_same_cut(manifest: Manifest, split: Split) -> None:
    """Checks that splitting again gives the cut-off that the bundle was trained before.

    Raises:
        PreconditionError: when it does not.
    """
    if manifest.split.cut_off_ms != split.cut_off_ms:
        raise PreconditionError(
            f"bundle {manifest.version} was trained on events before {manifest.split.cut_off_ms} ms, "
            f"--holdout {manifest.split.holdout} now cuts at {split.cut_off_ms} ms; train it anew"
        )
