"""A running server, asked over gRPC: what every call answers and how every wrong one is refused."""

from __future__ import annotations

import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recsys.columns import EventType
from recsys.errors import InputError, PreconditionError
from recsys.ranking.scorer import Stage
from recsys.stores.store import Event
from recsys.testing.serving import RunningServer
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc
from services.rpc.admission import REQUEST_ID
from services.rpc.client import Client, wait_until_serving

PUBLIC = ("Retrieval", "Scoring", "Recommendation", "Events")


@pytest.fixture
def retrieval(channel: grpc.Channel) -> pb_grpc.RetrievalStub:
    return pb_grpc.RetrievalStub(channel)


def test_recall_answers_with_aligned_lists(retrieval: pb_grpc.RetrievalStub, server: RunningServer) -> None:
    answer = retrieval.Recall(pb.RecallRequest(user_id=1, k=3, channel_lists=True, attributes=["title"]))
    assert len(answer.item_ids) == len(answer.scores) == len(answer.channel_masks) == len(answer.item_attributes) == 3
    assert set(answer.item_ids) <= {50, 60, 70, 80}
    assert answer.bundle_version == server.version
    assert answer.user_state == pb.USER_STATE_KNOWN
    assert not answer.degraded
    assert not answer.item_keys
    assert [channel.name for channel in answer.channels] == ["item_knn", "popularity", "two_tower"]
    assert all(channel.status == pb.CHANNEL_STATUS_OK for channel in answer.channels)
    assert list(answer.channels[0].item_ids) == [50]


def test_an_answer_to_a_history_is_a_function_of_the_request(retrieval: pb_grpc.RetrievalStub) -> None:
    request = pb.RecallRequest(k=4, history=[10], channels=["two_tower"], request_id="fixed")
    first, second = retrieval.Recall(request), retrieval.Recall(request)
    assert list(first.item_ids) == list(second.item_ids) == [20, 80, 30, 40]
    assert list(first.scores) == list(second.scores) == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.RecallRequest(k=0), ["k = 0", "between 1 and 1000"]),
        (pb.RecallRequest(k=1001), ["k = 1001", "between 1 and 1000"]),
        (pb.RecallRequest(k=1, channels=["mind"]), ["channels = 'mind'", "item_knn, popularity, two_tower"]),
        (pb.RecallRequest(k=1, filters=[pb.Filter(attribute="colour", any_of=["red"])]), ["'colour'", "genres"]),
        (pb.RecallRequest(k=1, history=range(10_001)), ["history", "10001", "10000"]),
        (pb.RecallRequest(k=1, history_keys=["ten"]), ["integer ids"]),
    ],
    ids=["k too small", "k too large", "no such channel", "no such attribute", "history too long", "keys"],
)
def test_a_refusal_names_field_value_and_bound(
    retrieval: pb_grpc.RetrievalStub, request_: pb.RecallRequest, words: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        retrieval.Recall(request_)
    assert refusal.value.code() is StatusCode.INVALID_ARGUMENT
    for word in words:
        assert word in refusal.value.details()
    assert dict(refusal.value.trailing_metadata())[REQUEST_ID]


def test_a_message_beyond_the_bound_is_refused(retrieval: pb_grpc.RetrievalStub) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        retrieval.Recall(pb.RecallRequest(k=1, exclude_item_ids=range(600_000)))
    assert refusal.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in refusal.value.details()


def test_a_deadline_is_honoured(retrieval: pb_grpc.RetrievalStub) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        retrieval.Recall(pb.RecallRequest(user_id=1, k=1), timeout=1e-6)
    assert refusal.value.code() is StatusCode.DEADLINE_EXCEEDED


def test_recommend_tells_stages_and_channels(channel: grpc.Channel) -> None:
    stub = pb_grpc.RecommendationStub(channel)
    answer = stub.Recommend(pb.RecommendRequest(history=[10], k=2, attributes=["title", "genres"]))
    assert [item.item_id for item in answer.items] == [20, 80]
    assert answer.items[0].attributes == {"title": "Brazil", "genres": "SciFi|Comedy"}
    assert "two_tower" in answer.items[0].channels
    assert not answer.items[0].HasField("p_click")
    assert [stage.name for stage in answer.stages][-1] == "top_k"
    assert answer.stages[-1].count_out == 2


def test_score_leaves_probabilities_empty_without_a_calibrated_model(channel: grpc.Channel) -> None:
    stub = pb_grpc.ScoringStub(channel)
    answer = stub.Score(pb.ScoreRequest(history=[10], item_ids=[20, 999, 10]))
    assert list(answer.item_ids) == [20, 10]
    assert list(answer.scores) == [0.5, 1.25]
    assert list(answer.unknown_item_ids) == [999]
    assert not answer.p_click
    assert not answer.p_conversion
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Score(pb.ScoreRequest(item_ids=[20], stage=pb.STAGE_RANK))
    assert refusal.value.code() is StatusCode.FAILED_PRECONDITION


def test_every_worker_sees_an_event_at_once(server: RunningServer) -> None:
    user, key = uuid.uuid4().int % 2**62, uuid.uuid4().int % 2**62
    click = pb.Event(event_id=key, user_id=user, item_id=10, type=pb.EVENT_TYPE_CLICK)
    wrong = pb.Event(event_id=key + 1, user_id=user, type=pb.EVENT_TYPE_CLICK)
    for connection in range(6):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            recorded = pb_grpc.EventsStub(channel).Record(pb.RecordRequest(events=[click, wrong]))
            assert (recorded.accepted, recorded.duplicates) == ((1, 0) if connection == 0 else (0, 1))
            assert [rejected.index for rejected in recorded.rejected] == [1]
            answer = pb_grpc.RetrievalStub(channel).Recall(pb.RecallRequest(user_id=user, k=8))
            assert answer.user_state == pb.USER_STATE_KNOWN
            assert 10 not in answer.item_ids


def test_the_python_client_speaks_the_librarys_language(server: RunningServer) -> None:
    assert wait_until_serving(server.address, seconds=10)
    with Client(server.address) as client:
        recalled = client.recall(history=[10], k=2, channels=["two_tower"], attributes=["title"])
        assert recalled.items.ids.tolist() == [20, 80]
        assert recalled.items.scores.dtype == np.float32
        assert recalled.attributes == [{"title": "Brazil"}, {"title": "Heat"}]
        recommended = client.recommend(history=[10], k=2)
        assert recommended.items.ids.tolist() == [20, 80]
        assert client.score(None, [20, 999], history=[10]).unknown.tolist() == [999]
        user = uuid.uuid4().int % 2**62
        assert client.record([Event(user, user, 20, EventType.CLICK, 1)]).accepted == 1
        with pytest.raises(InputError, match="k = 0"):
            client.recall(k=0)
        with pytest.raises(PreconditionError, match="rank"):
            client.score(None, [10], stage=Stage.RANK)


def test_health_and_reflection_name_every_public_service_and_not_admin(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", *(f"recsys.v1.{service}" for service in PUBLIC)):
        status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([asked]))
    listed = {service.name for service in answer.list_services_response.service}
    assert {f"recsys.v1.{service}" for service in PUBLIC} <= listed
    assert "recsys.v1.Admin" not in listed


def test_admin_is_not_on_the_public_port(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        pb_grpc.AdminStub(channel).Status(pb.StatusRequest())
    assert refusal.value.code() is StatusCode.UNIMPLEMENTED


def test_status_tells_of_every_worker(server: RunningServer, admin_channel: grpc.Channel) -> None:
    status = pb_grpc.AdminStub(admin_channel).Status(pb.StatusRequest())
    assert status.bundle_version == server.version
    assert [worker.bundle_version for worker in status.workers] == [server.version] * 2
    assert {worker.pid for worker in status.workers} == {worker.pid for worker in server.workers()}
    assert all(worker.serving for worker in status.workers)
    assert status.store.kind == "embedded"
    assert status.store.available
    assert status.uptime_seconds > 0
    assert status.requests == sum(worker.requests for worker in status.workers)


def test_listing_says_which_bundle_is_current(server: RunningServer, admin_channel: grpc.Channel) -> None:
    (bundle,) = pb_grpc.AdminStub(admin_channel).ListBundles(pb.ListBundlesRequest()).bundles
    assert bundle.version == server.version
    assert bundle.current
    assert bundle.created


@pytest.mark.parametrize("version", ["nothing", "../../etc", "", "/"])
def test_activating_what_is_no_bundle_is_refused(
    server: RunningServer, admin_channel: grpc.Channel, version: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        pb_grpc.AdminStub(admin_channel).ActivateBundle(pb.ActivateBundleRequest(version=version))
    assert refusal.value.code() is StatusCode.FAILED_PRECONDITION
    assert server.version in refusal.value.details()


def metrics_of(server: RunningServer) -> dict[str, float]:
    with urllib.request.urlopen(server.metrics, timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_add_up_over_workers(server: RunningServer) -> None:
    answered, refused = (f'recsys_calls_total{{code="{code}",rpc="Recall"}}' for code in ("OK", "INVALID_ARGUMENT"))
    before = metrics_of(server)

    def call(k: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            pb_grpc.RetrievalStub(channel).Recall(pb.RecallRequest(user_id=1, k=k))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, [1] * 12))
    with pytest.raises(grpc.RpcError):
        call(0)
    after = metrics_of(server)
    assert after[answered] - before.get(answered, 0) == 12
    assert after[refused] - before.get(refused, 0) == 1
    assert after[f'recsys_bundle_workers{{version="{server.version}"}}'] == 2
    assert after["recsys_store_available"] == 1
    for part in ("store", "prepare", "recall", "convert"):
        assert after[f'recsys_part_seconds_count{{part="{part}"}}'] > 0
    assert after['recsys_channel_seconds_count{channel="two_tower"}'] > 0
    cached, made = (
        after[name] - before.get(name, 0)
        for name in (f'recsys_user_vectors_total{{channel="two_tower",source="{of}"}}' for of in ("cache", "tower"))
    )
    assert cached + made == 12  # one user, whose vector each of two workers makes at most once
    assert cached >= 10
