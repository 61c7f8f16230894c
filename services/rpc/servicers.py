"""The services on the public port: each method reads a request, asks the engine, writes the answer."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import grpc.aio

from recsys.types import Deadline
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc
from services.rpc import convert
from services.rpc.admission import Admission
from services.rpc.engine import Engine
from services.rpc.measurements import PART_SECONDS, Measurements

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RetrievalServicer(pb_grpc.RetrievalServicer):
    """recsys.v1.Retrieval."""

    def __init__(self, engine: Engine, admission: Admission, measurements: Measurements) -> None:
        self._engine, self._admission, self._measurements = engine, admission, measurements

    async def Recall(self, request: pb.RecallRequest, context: Context) -> pb.RecallResponse:  # noqa: N802
        """As the proto says."""
        return await self._admission.admit("Recall", request, context, self._recall)

    async def _recall(self, request: pb.RecallRequest, deadline: Deadline) -> pb.RecallResponse:
        answer = await self._engine.recall(convert.recall_query(request), deadline)
        started = time.perf_counter()
        response = convert.recall_response(answer)
        self._measurements.observe(PART_SECONDS, time.perf_counter() - started, "convert")
        return response


class RecommendationServicer(pb_grpc.RecommendationServicer):
    """recsys.v1.Recommendation."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    async def Recommend(self, request: pb.RecommendRequest, context: Context) -> pb.RecommendResponse:  # noqa: N802
        """As the proto says."""
        return await self._admission.admit("Recommend", request, context, self._recommend)

    async def _recommend(self, request: pb.RecommendRequest, deadline: Deadline) -> pb.RecommendResponse:
        return convert.recommend_response(await self._engine.recommend(convert.recall_query(request), deadline))


class ScoringServicer(pb_grpc.ScoringServicer):
    """recsys.v1.Scoring."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """As the proto says."""
        return await self._admission.admit("Score", request, context, self._score)

    async def _score(self, request: pb.ScoreRequest, deadline: Deadline) -> pb.ScoreResponse:
        answer = await self._engine.score(convert.score_query(request), deadline)
        response = convert.score_response(answer)
        if request.item_keys:
            response.unknown_item_keys.extend(convert.unknown_keys(request, answer))
        return response


class EventsServicer(pb_grpc.EventsServicer):
    """recsys.v1.Events."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    async def Record(self, request: pb.RecordRequest, context: Context) -> pb.RecordResponse:  # noqa: N802
        """As the proto says."""
        return await self._admission.admit("Record", request, context, self._record)

    async def _record(self, request: pb.RecordRequest, deadline: Deadline) -> pb.RecordResponse:
        query = convert.record_query(request, integer_ids=self._engine.integer_ids)
        return convert.record_response(await self._engine.record(query))


def add_services(server: grpc.aio.Server, engine: Engine, admission: Admission, measurements: Measurements) -> None:
    """Adds every public service of recsys.v1 to a server."""
    pb_grpc.add_RetrievalServicer_to_server(RetrievalServicer(engine, admission, measurements), server)
    pb_grpc.add_RecommendationServicer_to_server(RecommendationServicer(engine, admission), server)
    pb_grpc.add_ScoringServicer_to_server(ScoringServicer(engine, admission), server)
    pb_grpc.add_EventsServicer_to_server(EventsServicer(engine, admission), server)
