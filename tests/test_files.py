"""Files and directories are whole or not there, and what a killed process leaves does not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys import files
from recsys.files import replacing, replacing_directory, sha256_of, write_text


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


WRITER = """
import sys, time
from pathlib import Path
from recsys.files import {way}
with {way}(Path(sys.argv[1])) as temporary:
    part = temporary if temporary.is_file() else temporary / "half"
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["replacing", "replacing_directory"])
def writing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A path, and a process in the middle of writing it."""
    program = WRITER.format(way=request.param)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield tmp_path / "out", process
    process.kill()
    process.communicate()


def write(path: Path, process: subprocess.Popen[str]) -> None:
    """Writes what the process was writing, in the same way."""
    if "replacing_directory" in process.args[2]:  # type: ignore[index]
        with replacing_directory(path) as folder:
            (folder / "whole").write_text("whole")
    else:
        write_text(path, "whole")


def test_what_a_killed_process_left_is_gone_after_the_next_write(
    writing: tuple[Path, subprocess.Popen[str]],
) -> None:
    path, process = writing
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (leftover,) = path.parent.iterdir()
    assert leftover.name.startswith(".out.")
    write(path, process)
    assert list(path.parent.iterdir()) == [path]


def test_what_another_process_is_writing_stays(writing: tuple[Path, subprocess.Popen[str]]) -> None:
    path, process = writing
    (being_written,) = path.parent.iterdir()
    write(path, process)
    assert set(path.parent.iterdir()) == {path, being_written}


def test_only_what_is_a_temporary_of_the_same_name_is_cleared(tmp_path: Path) -> None:
    others = {".out.txt", ".out.notes.tmp", ".outer.abcd1234.tmp", "out.abcd1234.tmp"}
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".out.abcd1234.tmp").mkdir()
    write_text(tmp_path / "out", "whole")
    assert {path.name for path in tmp_path.iterdir()} == others | {"out"}


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
