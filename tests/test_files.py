from __future__ import annotations

from pathlib import Path

import pytest

from recsys import files
from recsys.files import replacing, replacing_directory, sha256_of


@pytest.fixture(params=["one step", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two steps":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return str(request.param)


def test_a_directory_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path, way: str) -> None:
    for generation in ("old", "new"):
        with replacing_directory(tmp_path / "d") as folder:
            (folder / generation).write_text(generation)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["new"]


def test_an_error_leaves_the_old_directory(tmp_path: Path, way: str) -> None:
    with replacing_directory(tmp_path / "d") as folder:
        (folder / "old").write_text("old")

    def break_off() -> None:
        with replacing_directory(tmp_path / "d") as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with replacing(file) as temporary:
        temporary.write_text("old")

    def break_off() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert (file.read_text(), len(list(tmp_path.iterdir()))) == ("old", 1)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
