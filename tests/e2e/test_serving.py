"""Faults of a running service, with real processes: what callers see, and what is left behind."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import psutil
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.bundle.publish import publish
from recsys.files import write_text
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.serving import RunningServer
from recsys.testing.toy import write_toy
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc

PATIENCE = 30.0
"""Seconds after which a test gives up waiting: what it waits for takes a fraction of one."""

RECALL = pb.RecallRequest(user_id=1, k=4)


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """Three versions, the first published; later ones multiply the popularity counts."""
    dataset = write_toy(tmp_path / "data")
    for weight in (1, 2, 3):
        bundle = write_toy_bundle(tmp_path / "bundles", dataset, tmp_path / f"work{weight}", popularity_weight=weight)
        if weight == 1:
            publish(tmp_path / "bundles", bundle.name)
    return tmp_path / "bundles"


def versions_of(bundles: Path) -> list[str]:
    return sorted(path.name for path in bundles.iterdir() if (path / "manifest.json").exists())


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until something holds; fails when it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


class Caller:
    """Calls Recall over and over from several connections, each until its first error."""

    def __init__(self, address: str, connections: int = 4) -> None:
        self._address = address
        self._stop = Event()
        self._pool = ThreadPoolExecutor(connections)
        self.versions: list[str] = []
        self.errors: list[grpc.RpcError] = []
        self._running = [self._pool.submit(self._call) for _ in range(connections)]

    def _call(self) -> None:
        with grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb_grpc.RetrievalStub(channel)
            while not self._stop.is_set():
                try:
                    self.versions.append(stub.Recall(RECALL, timeout=PATIENCE).bundle_version)
                except grpc.RpcError as error:
                    self.errors.append(error)
                    return

    def __enter__(self) -> Caller:
        eventually(lambda: len(self.versions) > 10)
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        self._pool.shutdown()


@pytest.fixture
def server(bundles: Path) -> Iterator[RunningServer]:
    with RunningServer(bundles, "--workers", "2") as running:
        yield running


def call(address: str, request: pb.RecallRequest = RECALL, timeout: float = PATIENCE) -> pb.RecallResponse:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return pb_grpc.RetrievalStub(channel).Recall(request, timeout=timeout)


def test_bundles_change_under_load_without_a_failed_call(bundles: Path, server: RunningServer) -> None:
    first, second, third = versions_of(bundles)
    with Caller(server.address) as caller, grpc.insecure_channel(server.admin) as channel:
        admin = pb_grpc.AdminStub(channel)
        activated = admin.ActivateBundle(pb.ActivateBundleRequest(version=second))
        assert (activated.bundle_version, activated.previous_version) == (second, first)
        assert {call(server.address).bundle_version for _ in range(10)} == {second}

        publish(bundles, third)
        eventually(lambda: {w.bundle_version for w in admin.Status(pb.StatusRequest()).workers} == {third})

        rolled_back = admin.Rollback(pb.RollbackRequest())
        assert (rolled_back.bundle_version, rolled_back.previous_version) == (second, third)
        assert {call(server.address).bundle_version for _ in range(10)} == {second}
    assert caller.errors == []
    assert set(caller.versions) == {first, second, third}


def test_an_altered_bundle_is_refused_by_the_name_of_the_file_and_the_old_one_serves_on(
    bundles: Path, server: RunningServer
) -> None:
    first, second, _ = versions_of(bundles)
    scores = bundles / second / "components" / "popularity" / "scores.npy"
    scores.write_bytes(scores.read_bytes()[:-4])
    with Caller(server.address) as caller, grpc.insecure_channel(server.admin) as channel:
        admin = pb_grpc.AdminStub(channel)

        def workers() -> list[pb.WorkerStatus]:
            return list(admin.Status(pb.StatusRequest()).workers)

        with pytest.raises(grpc.RpcError) as refusal:
            admin.ActivateBundle(pb.ActivateBundleRequest(version=second))
        assert refusal.value.code() is StatusCode.FAILED_PRECONDITION
        assert "popularity/scores.npy" in refusal.value.details()
        assert (bundles / "CURRENT").read_text().strip() == first

        # Named behind the server's back, it is refused by each worker for itself.
        write_text(bundles / "CURRENT", second)
        eventually(lambda: all("popularity/scores.npy" in worker.refused for worker in workers()))
        assert [worker.bundle_version for worker in workers()] == [first] * 2
    assert caller.errors == []
    assert set(caller.versions) == {first}
    # A worker that crashes now comes back with what the others serve.
    with grpc.insecure_channel(server.admin) as channel:
        admin = pb_grpc.AdminStub(channel)
        server.workers()[0].kill()
        eventually(lambda: sum(worker.restarts for worker in workers()) == 1)
        eventually(lambda: all(worker.serving for worker in workers()))
        assert [worker.bundle_version for worker in workers()] == [first] * 2
    assert call(server.address).bundle_version == first
    assert server.stop() == 0


def test_a_killed_store_degrades_answers_until_it_is_back_with_what_it_knew(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        events = pb_grpc.EventsStub(channel)
        click = pb.Event(event_id=1, user_id=1, item_id=80, type=pb.EVENT_TYPE_CLICK)
        assert events.Record(pb.RecordRequest(events=[click])).accepted == 1
        (store,) = [process for process in server.processes() if "valkey" in process.name()]
        time.sleep(1.1)  # the append-only file is on disk within a second
        store.kill()
        answer = call(server.address)
        assert list(answer.degraded) == ["feature_store"]
        assert len(answer.item_ids) == 4
        own_history = call(server.address, pb.RecallRequest(user_id=1, k=4, history=[60], channels=["item_knn"]))
        assert list(own_history.item_ids) == [50, 70]
        assert not own_history.degraded
        # Each worker finds the store again for itself.
        eventually(lambda: not any(call(server.address).degraded for _ in range(8)))
        assert set(call(server.address).item_ids) == {50, 60, 70}
        assert events.Record(pb.RecordRequest(events=[click])).duplicates == 1
    assert server.stop() == 0


def test_a_store_that_hangs_does_not_hold_up_answers(server: RunningServer) -> None:
    (store,) = [process for process in server.processes() if "valkey" in process.name()]
    store.suspend()
    try:
        eventually(lambda: list(call(server.address).degraded) == ["feature_store"])
        clicks = pb.RecordRequest(events=[pb.Event(event_id=2, user_id=1, item_id=80, type=pb.EVENT_TYPE_CLICK)])
        with grpc.insecure_channel(server.address) as channel:
            events = pb_grpc.EventsStub(channel)
            with pytest.raises(grpc.RpcError) as refusal:
                events.Record(clicks, timeout=PATIENCE)
        assert refusal.value.code() is StatusCode.UNAVAILABLE
    finally:
        store.resume()
    eventually(lambda: not call(server.address).degraded)


def test_sigterm_tells_load_balancers_finishes_calls_and_ends_with_zero(server: RunningServer) -> None:
    with Caller(server.address) as caller, grpc.insecure_channel(server.address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        before = len(caller.versions)
        assert server.process.wait(PATIENCE) == 0
        assert len(caller.versions) > before
    # Late calls are sent elsewhere; none that was taken broke off.
    assert {error.code() for error in caller.errors} == {StatusCode.UNAVAILABLE}


def test_nothing_is_left_when_the_supervisor_is_killed(server: RunningServer) -> None:
    children = server.processes()
    assert len(children) == 3
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []


def test_overload_is_refused_at_once(bundles: Path) -> None:
    flags = ["--workers", "1", "--max-in-flight", "2", "--store-timeout-ms", "5000"]
    with RunningServer(bundles, *flags) as server, grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.RetrievalStub(channel)
        assert stub.Recall(RECALL, timeout=PATIENCE).item_ids
        (store,) = [process for process in server.processes() if "valkey" in process.name()]
        store.suspend()  # calls that wait for it stay in flight
        asked: list[Future[pb.RecallResponse]] = [stub.Recall.future(RECALL, timeout=PATIENCE) for _ in range(20)]
        end = time.monotonic() + PATIENCE
        while sum(future.done() for future in asked) < 18 and time.monotonic() < end:
            time.sleep(0.01)
        refused = [future.exception() for future in asked if future.done()]
        store.resume()
        assert [error.code() for error in refused if error] == [StatusCode.RESOURCE_EXHAUSTED] * 18  # type: ignore[attr-defined]
        assert sum(future.exception() is None for future in asked) == 2
        assert stub.Recall(RECALL, timeout=PATIENCE).item_ids


def recsys(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_port_in_use_is_one_sentence_and_exit_code_two(bundles: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = recsys("serve", "--bundles", str(bundles), "--listen", f"127.0.0.1:{port}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"--listen 127.0.0.1:{port}" in ended.stderr
    assert "in use" in ended.stderr


def test_an_altered_bundle_is_not_served_from_the_start(bundles: Path) -> None:
    version = (bundles / "CURRENT").read_text().strip()
    tower = bundles / version / "components" / "two_tower" / "user_tower.onnx"
    content = bytearray(tower.read_bytes())
    content[-1] ^= 1
    tower.write_bytes(content)
    ended = recsys("serve", "--bundles", str(bundles), "--listen", "127.0.0.1:0", "--workers", "1")
    assert ended.returncode == 2
    assert "user_tower.onnx" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_bundles_is_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    ended = recsys("serve", "--bundles", str(tmp_path), "--listen", "127.0.0.1:0")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a server's and a client's certificate that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificates")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for who in ("server", "client"):
        openssl("req", *new[:-2], "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{who}.csr", *signing, "-out", f"{who}.pem")
    return folder


def test_tls_client_certificates_and_tokens_keep_strangers_out(
    bundles: Path, certificates: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("web first-secret\nbatch second-secret\n")
    pair = ["--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key")]
    arguments = [*pair, "--tls-client-ca", str(certificates / "ca.pem"), "--tokens", str(tokens), "--workers", "1"]
    authority, key, chain = ((certificates / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    with RunningServer(bundles, *arguments) as server:

        def recall(credentials: grpc.ChannelCredentials | None, token: str | None) -> StatusCode:
            opened = (
                grpc.secure_channel(server.address, credentials)
                if credentials
                else grpc.insecure_channel(server.address)
            )
            with opened as channel:
                metadata = [("authorization", f"Bearer {token}")] if token else []
                try:
                    pb_grpc.RetrievalStub(channel).Recall(RECALL, metadata=metadata, timeout=PATIENCE)
                except grpc.RpcError as error:
                    return error.code()
                return StatusCode.OK

        known = grpc.ssl_channel_credentials(authority, key, chain)
        assert recall(known, "first-secret") is StatusCode.OK
        assert recall(known, "second-secret") is StatusCode.OK
        assert recall(known, "third-secret") is StatusCode.UNAUTHENTICATED
        assert recall(known, None) is StatusCode.UNAUTHENTICATED
        assert recall(grpc.ssl_channel_credentials(authority), "first-secret") is StatusCode.UNAVAILABLE
        assert recall(None, "first-secret") is StatusCode.UNAVAILABLE
        with grpc.secure_channel(server.admin, known) as channel, pytest.raises(grpc.RpcError) as refusal:
            pb_grpc.AdminStub(channel).Status(pb.StatusRequest())
        assert refusal.value.code() is StatusCode.UNAUTHENTICATED

        files = ["--tls-ca", "ca.pem", "--tls-cert", "client.pem", "--tls-key", "client.key"]
        flags = [flag if flag.startswith("--") else str(certificates / flag) for flag in files]
        secret = tmp_path / "secret"
        secret.write_text("first-secret\n")
        ended = recsys("recall", "--server", server.address, "--user", "1", *flags, "--token-file", str(secret))
        assert ended.returncode == 0, ended.stderr
        assert "Fargo" in ended.stdout
        ended = recsys("recall", "--server", server.address, "--user", "1", *flags)
        assert ended.returncode == 2
        assert "secret" not in server.log.read_text()
