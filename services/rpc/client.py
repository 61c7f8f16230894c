"""A typed Python client: the library's values in and out, its errors instead of gRPC's codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import numpy as np
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.cascade.answers import ChannelStatus, StageReport
from recsys.columns import EventType
from recsys.errors import (
    DeadlineError,
    InputError,
    OverloadError,
    PreconditionError,
    RecsysError,
    StoreError,
    UsageError,
)
from recsys.ranking.scorer import Stage
from recsys.retrieval.filters import AttributeFilter
from recsys.stores.store import Event
from recsys.types import Floats, Ids
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc
from services.rpc.calls import (
    ChannelPart,
    Circumstances,
    ItemList,
    RecallAnswer,
    RecommendAnswer,
    RecordAnswer,
    ScoreAnswer,
)
from services.rpc.convert import CHANNEL_STATUS, EVENT_TYPES, STAGES
from services.rpc.settings import MAX_MESSAGE_BYTES

_ERRORS: Final[dict[StatusCode, type[RecsysError]]] = {
    StatusCode.INVALID_ARGUMENT: InputError,
    StatusCode.FAILED_PRECONDITION: PreconditionError,
    StatusCode.RESOURCE_EXHAUSTED: OverloadError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    StatusCode.UNAVAILABLE: StoreError,
    StatusCode.UNAUTHENTICATED: UsageError,
}
_STATUS_OF: Final[dict[int, ChannelStatus]] = {value: status for status, value in CHANNEL_STATUS.items()}
_TYPE_OF: Final = {kind: value for value, kind in EVENT_TYPES.items()}
_STAGE_OF: Final = {stage: value for value, stage in STAGES.items()}
_OPTIONS: Final = (("grpc.max_receive_message_length", 16 * MAX_MESSAGE_BYTES),)
_PROBE_SECONDS: Final = 0.05

Request = TypeVar("Request", pb.RecallRequest, pb.RecommendRequest)
Answer = TypeVar("Answer")


class Client:
    """A connection to one server.

    Args:
        server: HOST:PORT.
        token: shown as bearer.
        tls_ca: PEM file of the authority that the server's certificate comes from; with it or with a
            certificate of one's own the connection is TLS.
        tls_cert, tls_key: PEM files to show to a server that asks for a client certificate.
        timeout: seconds a call may take.

    Raises:
        UsageError: a file that cannot be read.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._server, self._timeout = server, timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        files = [_read(path) for path in (tls_ca, tls_key, tls_cert)]
        if any(files):
            self._channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(*files), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(server, _OPTIONS)
        self._retrieval = pb_grpc.RetrievalStub(self._channel)
        self._recommendation = pb_grpc.RecommendationStub(self._channel)
        self._scoring = pb_grpc.ScoringStub(self._channel)
        self._events = pb_grpc.EventsStub(self._channel)

    def recall(self, user: int | str | None = None, *, k: int = 100, **asked: Any) -> RecallAnswer:
        """Candidates for a user.

        Args:
            user: an id, a key, or None for nobody in particular.
            k: how many.
            asked: as `_request` takes them.

        Raises:
            RecsysError: the refusal, of the class its code stands for.
        """
        answer = self._call(self._retrieval.Recall, _request(pb.RecallRequest, user, k, **asked))
        return RecallAnswer(
            items=_items(answer.item_ids, answer.scores, answer.item_keys),
            masks=np.array(answer.channel_masks, np.uint32),
            channels=tuple(map(_channel, answer.channels)),
            attributes=[dict(item.values) for item in answer.item_attributes] or None,
            about=_about(answer),
        )

    def recommend(self, user: int | str | None = None, *, k: int = 10, **asked: Any) -> RecommendAnswer:
        """The items to show a user; arguments and errors as `recall`."""
        answer = self._call(self._recommendation.Recommend, _request(pb.RecommendRequest, user, k, **asked))
        items = answer.items
        names = [channel.name for channel in answer.channels]
        masks = [sum(1 << names.index(name) for name in item.channels) for item in items]
        return RecommendAnswer(
            items=_items(
                [i.item_id for i in items], [i.score for i in items], [i.item_key for i in items if i.item_key]
            ),
            masks=np.array(masks, np.uint32),
            p_click=_floats([i.p_click for i in items if i.HasField("p_click")]),
            p_conversion=_floats([i.p_conversion for i in items if i.HasField("p_conversion")]),
            channels=tuple(map(_channel, answer.channels)),
            stages=tuple(StageReport(s.name, s.count_in, s.count_out, s.micros) for s in answer.stages),
            attributes=[dict(item.attributes) for item in items],
            about=_about(answer),
        )

    def score(
        self, user: int | None, item_ids: Sequence[int], *, stage: Stage | None = None, history: Sequence[int] = ()
    ) -> ScoreAnswer:
        """Scores of given items; errors as `recall`."""
        request = pb.ScoreRequest(user_id=user, item_ids=item_ids, stage=_STAGE_OF[stage], history=history)
        answer = self._call(self._scoring.Score, request)
        return ScoreAnswer(
            items=_items(answer.item_ids, answer.scores, answer.item_keys),
            p_click=_floats(answer.p_click),
            p_conversion=_floats(answer.p_conversion),
            unknown=np.array(answer.unknown_item_ids, np.int64),
            about=_about(answer),
        )

    def record(self, events: Sequence[Event]) -> RecordAnswer:
        """Records events; those that are wrong come back by index."""
        answer = self._call(self._events.Record, pb.RecordRequest(events=[_event(event) for event in events]))
        return RecordAnswer(
            answer.accepted, answer.duplicates, tuple((wrong.index, wrong.reason) for wrong in answer.rejected)
        )

    def serving(self) -> bool:
        """Whether the server says that it takes calls.

        Raises:
            RecsysError: nobody answers there.
        """
        health = health_pb2_grpc.HealthStub(self._channel)
        answer = self._call(health.Check, health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., Answer], request: Any) -> Answer:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            kind = _ERRORS.get(error.code(), RecsysError)
            raise kind(f"{self._server}: {error.details()}") from None


def recall_message(user: int | str | None, *, k: int, **asked: Any) -> bytes:
    """The bytes of a Recall request, for a load generator."""
    return _request(pb.RecallRequest, user, k, **asked).SerializeToString()


def wait_until_serving(address: str, seconds: float) -> bool:
    """Waits until the server at HOST:PORT takes calls; False when it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # A new connection each time: an old one waits ever longer between its attempts.
        with suppress(RecsysError), Client(address, timeout=1.0) as client:
            if client.serving():
                return True
        time.sleep(_PROBE_SECONDS)
    return False


def _request(
    kind: type[Request],
    user: int | str | None,
    k: int,
    *,
    channels: Sequence[str] = (),
    history: Sequence[int] | Sequence[str] | Ids = (),
    exclude: Sequence[int] | Sequence[str] = (),
    exclude_seen: bool = True,
    filters: Sequence[AttributeFilter] = (),
    channel_lists: bool = False,
    attributes: Sequence[str] = (),
    request_id: str = "",
) -> Request:
    """A Recall or Recommend request; ids and keys are told apart by their type."""
    by_id, by_key = _ids_or_keys(history)
    not_ids, not_keys = _ids_or_keys(exclude)
    return kind(
        user_id=user if isinstance(user, int) else None,
        user_key=user if isinstance(user, str) else None,
        k=k,
        channels=channels,
        history=by_id,
        history_keys=by_key,
        exclude_item_ids=not_ids,
        exclude_item_keys=not_keys,
        exclude_seen=exclude_seen,
        filters=[pb.Filter(attribute=f.attribute, any_of=f.any_of, min=f.min, max=f.max) for f in filters],
        channel_lists=channel_lists,
        attributes=attributes,
        request_id=request_id,
    )


def _ids_or_keys(items: Sequence[int] | Sequence[str] | Ids) -> tuple[list[int], list[str]]:
    keys = [item for item in items if isinstance(item, str)]
    return ([], keys) if keys else ([int(item) for item in items], [])


def _items(ids: Sequence[int], scores: Sequence[float], keys: Sequence[str]) -> ItemList:
    return ItemList(np.array(ids, np.int64), np.array(scores, np.float32), list(keys) or None)


def _floats(values: Sequence[float]) -> Floats | None:
    return np.array(values, np.float32) if len(values) else None


def _channel(message: pb.ChannelAnswer) -> ChannelPart:
    items = _items(message.item_ids, message.scores, message.item_keys) if message.item_ids else None
    return ChannelPart(message.name, _STATUS_OF[message.status], message.count, message.micros, items)


def _about(answer: pb.RecallResponse | pb.RecommendResponse | pb.ScoreResponse) -> Circumstances:
    known = answer.user_state == pb.USER_STATE_KNOWN
    return Circumstances(answer.bundle_version, known, tuple(answer.degraded))


def _event(event: Event) -> pb.Event:
    return pb.Event(
        event_id=event.event_id,
        user_id=event.user_id if event.user_key is None else None,
        item_id=event.item_id if event.item_key is None else None,
        type=_TYPE_OF[EventType(event.type)],
        timestamp_ms=event.timestamp_ms,
        click_id=event.click_id,
        value=event.value,
        user_key=event.user_key,
        item_key=event.item_key,
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
