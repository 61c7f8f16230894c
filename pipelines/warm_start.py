"""Warm start of a run: which bundle of an earlier run each branch begins from, and that it gives nothing away.

A held-out twin begins from the twin of the same protocol, the fit on everything from what the earlier run serves. What
has seen the test events of a branch is refused as its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import JsonValue

from pipelines.step import Result, StepContext
from recsys.bundle.component import COMPONENTS_FOLDER
from recsys.bundle.manifest import FEATURES_FOLDER, MANIFEST_FILE, USERS_FOLDER, Manifest, entry_of, read_manifest
from recsys.bundle.publish import bundle_path, current, published
from recsys.bundle.users import BundleUsers
from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import CATALOGUE_FILES, Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout, Split, split
from recsys.errors import BundleError, PreconditionError, UsageError
from recsys.retrieval.tree_channel import TREE
from recsys.train.warm_start import WEIGHTS


@dataclass(frozen=True, slots=True)
class Source:
    """A bundle that a branch of a run begins from.

    Attributes:
        path: its folder, absolute.
        manifest: what it was made from.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Source:
        """Reads the manifest of the bundle at `path`.

        Raises:
            BundleError: when it has none that can be read.
        """
        return cls(path.resolve(), read_manifest(path))

    def begun_with(self, recipe: str) -> tuple[str, ...]:
        """The files that a fit of a recipe begins with, relative to the bundle: weights, and a tree where it has one.

        Nothing where the bundle has no weights of the recipe.
        """
        folder = f"{COMPONENTS_FOLDER}/{recipe}"
        if f"{folder}/{WEIGHTS}" not in self.manifest.files:
            return ()
        of_tree = [name for name in self.manifest.files if name.startswith(f"{folder}/{TREE}/")]
        return (f"{folder}/{WEIGHTS}", *sorted(of_tree))

    def content(self, recipe: str) -> dict[str, JsonValue]:
        """What a fit that begins from here depends on: equal content, equal beginning."""
        files: dict[str, JsonValue] = {name: self.manifest.files[name].sha256 for name in self.begun_with(recipe)}
        return files | {"features": self.manifest.feature_set_hash, "catalogue": self.manifest.catalogue_hash}


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The earlier run to start from.

    Attributes:
        run: as the command line names it.
        served: the bundle that run serves, or the bundle that was named.
    """

    run: Path
    served: Source

    @classmethod
    def open(cls, run: Path, *, out: Path, dataset_hash: str) -> WarmStart:
        """Finds what a run serves.

        Where the run is the one being written, its newest published version that was trained on other data: so that
        the same command goes on where it stopped, and repeated finds all done.

        Args:
            run: the OUT of an earlier run, its folder of bundles, or one bundle.
            out: where the new run is written to.
            dataset_hash: of the data it is trained on.

        Raises:
            UsageError: when there is no such run, or none to start from.
            BundleError: when nothing is published there, or the bundle cannot be read.
        """
        if (run / MANIFEST_FILE).is_file():
            return cls(run, Source.open(run))
        bundles = run / "bundles" if (run / "bundles").is_dir() else run
        if not bundles.is_dir():
            raise UsageError(f"--warm-start {run}: there is no such run; give the --out of an earlier one, or a bundle")
        if bundles.resolve().parent != out.resolve():
            return cls(run, Source.open(current(bundles)))
        for version in reversed(published(bundles)):
            if (bundles / version).is_dir():
                source = Source.open(bundle_path(bundles, version))
                if source.manifest.dataset.content_hash != dataset_hash:
                    return cls(run, source)
        raise UsageError(
            f"--warm-start {run}: all that it has published was trained on these very data; give another --out to "
            "start from it"
        )

    def source(self, holdout: Holdout, *, everything: bool) -> Source:
        """What a branch begins from.

        Args:
            holdout: of the branch.
            everything: whether the branch is fitted on all events given.

        Raises:
            UsageError: when the run has no twin that held out the same.
            BundleError: when the twin is gone.
        """
        if everything:
            return self.served
        if holdout.protocol is None:
            raise UsageError(
                "--warm-start with --holdout none: the epochs would be chosen on events that the earlier run has seen; "
                "give --holdout last or time:SHARE, and --refit"
            )
        manifest = self.served.manifest
        if not manifest.split.refit and manifest.split.protocol == holdout.protocol:
            return self.served
        version = manifest.twins.get(holdout.protocol)
        if version is None:
            trained = "everything" if manifest.split.refit else f"--holdout {manifest.split.holdout}"
            raise UsageError(
                f"--warm-start {self.run}: bundle {manifest.version} was trained with {trained} and names no twin for "
                f"--holdout {holdout}: it may have seen what is held out here. Start from a run with that --holdout, "
                "or from scratch"
            )
        return Source.open(bundle_path(self.served.path.parent, version))

    def refuse_without_weights(self, recipes: Sequence[str]) -> None:
        """Refuses a run that holds no weights for any of the recipes.

        Raises:
            UsageError: names the recipes.
        """
        if not any(self.served.begun_with(name) for name in recipes):
            raise UsageError(
                f"--warm-start {self.run}: bundle {self.served.manifest.version} holds no weights of "
                f"{', '.join(recipes)}; start from a run that fitted a model with a gradient, such as two_tower"
            )


@dataclass(frozen=True, slots=True)
class StartWork:
    """Step `start@H`: check the bundle that the branch begins from, and that it gives no test event away.

    Attributes:
        data: the dataset.
        holdout: of the branch.
        everything: whether the branch is fitted on all events given; then nothing is held out.
        bundle: the source's folder.
        taken: the files with weights and trees that are taken from it.
    """

    data: Path
    holdout: str
    everything: bool
    bundle: Path
    taken: tuple[str, ...]

    def __call__(self, context: StepContext) -> Result:
        """Returns which version it is."""
        source = Source.open(self.bundle)
        read = [n for n in source.manifest.files if n.startswith(f"{FEATURES_FOLDER}/") or n in CATALOGUE_FILES]
        for name in (*self.taken, *read):
            _refuse_altered(self.bundle / name, source.manifest, name)
        if not self.everything:
            dataset = Dataset.open(self.data)
            catalogue = Catalogue.from_dataset(dataset)
            _refuse_leak(source, split(dataset, catalogue, Holdout.parse(self.holdout)), catalogue)
        return {"version": source.manifest.version, "holdout": source.manifest.split.holdout}


def _refuse_altered(path: Path, manifest: Manifest, name: str) -> None:
    try:
        whole = entry_of(path) == manifest.files[name]
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); the run cannot be started from") from None
    if not whole:
        raise BundleError(f"{path}: was altered (it is not what the manifest says); the run cannot be started from")


def _refuse_leak(source: Source, parts: Split, catalogue: Catalogue) -> None:
    """Refuses a source that was fitted on events which `parts` holds out.

    By time: its cut-off must not be later. By position: no user's test item may be among what it was fitted on, which
    is the case as soon as the source's data reach further than these.

    Raises:
        PreconditionError: says which event, or which cut-off.
    """
    version, given = source.manifest.version, source.manifest.split
    if parts.cut_off_ms is not None:
        if given.cut_off_ms is None or given.cut_off_ms > parts.cut_off_ms:
            raise PreconditionError(
                f"--warm-start: bundle {version} was fitted on events before {_day(given.cut_off_ms)}, but here all "
                f"from {_day(parts.cut_off_ms)} on are held out; start from an earlier run, or from scratch"
            )
        return
    if parts.test is None:
        return
    held = pl.DataFrame({USER_ID: parts.test.user_ids, ITEM_ID: catalogue.ids[parts.test.target]})
    seen = held.join(_fitted_on(source), on=[USER_ID, ITEM_ID], how="semi")
    if len(seen):
        user, item = seen.row(0)
        raise PreconditionError(
            f"--warm-start: bundle {version} was fitted on {len(seen):,} of the {len(held):,} events that are held out "
            f"here, such as item {item} of user {user}: its data reach further than these; start from a run on the "
            "same data or older ones, or from scratch"
        )


def _fitted_on(source: Source) -> pl.DataFrame:
    """Users and items that a leave-one-out twin was fitted on, as far as the bundle remembers its users.

    What it remembers of a user is all but the test; the newest of that is validation. But from who has no more than
    two, nothing may have been held out.
    """
    users = BundleUsers.open(source.path / USERS_FOLDER)
    lengths = np.diff(users.seen_offsets)
    place = np.arange(len(users.seen_ids)) - np.repeat(users.seen_offsets[:-1], lengths)
    newest = place == np.repeat(lengths, lengths) - 1
    fitted = ~newest | (np.repeat(lengths, lengths) <= 2)
    return pl.DataFrame({USER_ID: np.repeat(users.user_ids, lengths)[fitted], ITEM_ID: users.seen_ids[fitted]})


def _day(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "an unknown time"
    return str(np.datetime64(milliseconds, "ms")) + " UTC"
