"""recsys.v1.Admin, on the supervisor's own port: which bundles there are, which is served, how the server stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc.aio
import structlog
from grpc_reflection.v1alpha import reflection

from recsys.bundle.publish import current, list_bundles
from recsys.errors import BundleError, RecsysError
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc
from services.rpc import credentials
from services.rpc.processes import WorkerProcess
from services.rpc.refusals import code_of
from services.rpc.servicers import Context

if TYPE_CHECKING:
    from services.rpc.supervisor import Supervisor

log = structlog.get_logger(__name__)

Response = TypeVar("Response")


class AdminServicer(pb_grpc.AdminServicer):
    """Answers from what the supervisor knows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Context) -> pb.ListBundlesResponse:  # noqa: N802
        """As the proto says."""
        listed = await asyncio.to_thread(list_bundles, self._supervisor.settings.bundles)
        summaries = [
            pb.BundleSummary(
                version=one.version, current=one.current, created=one.manifest.created if one.manifest else ""
            )
            for one in listed
        ]
        return pb.ListBundlesResponse(bundles=summaries)

    async def ActivateBundle(  # noqa: N802
        self, request: pb.ActivateBundleRequest, context: Context
    ) -> pb.ActivateBundleResponse:
        """As the proto says."""
        version, previous = await _answered(context, lambda: self._supervisor.activate(request.version))
        log.info("bundle_activated", version=version, previous=previous)
        return pb.ActivateBundleResponse(bundle_version=version, previous_version=previous)

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:  # noqa: N802
        """As the proto says."""
        version, previous = await _answered(context, self._supervisor.go_back)
        log.info("bundle_rolled_back", version=version, previous=previous)
        return pb.RollbackResponse(bundle_version=version, previous_version=previous)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:  # noqa: N802
        """As the proto says."""
        supervisor = self._supervisor
        await supervisor.refresh()
        workers = [_worker_status(worker) for worker in supervisor.workers]
        return pb.StatusResponse(
            bundle_version=_named(supervisor),
            workers=workers,
            store=pb.StoreStatus(kind=supervisor.store_kind, available=supervisor.store_available),
            uptime_seconds=time.monotonic() - supervisor.started,
            requests=sum(worker.requests for worker in workers),
            errors=sum(worker.errors for worker in workers),
        )


def admin_server(supervisor: Supervisor) -> grpc.aio.Server:
    """A server with Admin and reflection; the caller gives it its port."""
    server = grpc.aio.server(interceptors=credentials.interceptors(supervisor.settings.credentials))
    pb_grpc.add_AdminServicer_to_server(AdminServicer(supervisor), server)
    name = pb.DESCRIPTOR.services_by_name["Admin"].full_name
    reflection.enable_server_reflection((name, reflection.SERVICE_NAME), server)
    return server


async def _answered(context: Context, action: Callable[[], Awaitable[Response]]) -> Response:
    """The answer, or a refusal with the code of its error."""
    try:
        return await action()
    except RecsysError as error:
        await context.abort(code_of(error), str(error))
        raise  # abort has raised already


def _named(supervisor: Supervisor) -> str:
    try:
        return current(supervisor.settings.bundles).name
    except BundleError:
        return ""


def _worker_status(worker: WorkerProcess) -> pb.WorkerStatus:
    counts = worker.measurements
    return pb.WorkerStatus(
        pid=worker.pid,
        bundle_version=worker.version,
        uptime_seconds=worker.uptime,
        requests=counts.calls(failed=False),
        errors=counts.calls(failed=True),
        in_flight=worker.in_flight,
        restarts=worker.restarts,
        serving=worker.serving,
        refused=worker.refused,
    )
