"""`recsys serve`: the service, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from services.rpc.settings import Address, ServeSettings
    from services.rpc.supervisor import Supervisor

NONE = "none"
"""Turns a port off."""


def register(app: typer.Typer) -> None:
    """Adds the verb `serve`."""
    app.command("serve")(serve)


def serve(
    bundles: Path = typer.Option(..., help="Folder of versions; the one that CURRENT names is served."),
    redis_url: str = typer.Option(
        "",
        envvar="RECSYS_REDIS_URL",
        help="Feature store; none starts an embedded Valkey. A password belongs in the variable.",
    ),
    namespace: str = typer.Option("recsys", help="Prefix of every key in the store."),
    store_dir: Path | None = typer.Option(None, help="Where the embedded store persists; default: beside the bundles."),
    durable_events: bool = typer.Option(
        False,
        "--durable-events",
        help="The embedded store answers once an event is on disk; else it is there within a second.",
    ),
    listen: str = typer.Option("127.0.0.1:50051", help="HOST:PORT of the public services; port 0 takes a free one."),
    admin_listen: str = typer.Option("", help="HOST:PORT of Admin, or none; default: loopback, the next port."),
    metrics_listen: str = typer.Option("", help="HOST:PORT of /metrics, or none; default: loopback, the port after."),
    workers: int = typer.Option(0, min=0, help="Processes; 0: one a core."),
    max_in_flight: int | None = typer.Option(None, help="Calls a worker works on at once; more are refused."),
    default_deadline_ms: int | None = typer.Option(None, help="For calls that name no deadline."),
    user_cache_mb: int | None = typer.Option(
        None, help="Memory of a worker for vectors of users who come back; 0: none."
    ),
    store_timeout_ms: int | None = typer.Option(None, help="A read of the store that takes longer is a fault."),
    drain_seconds: float | None = typer.Option(None, help="What calls in flight may take after SIGTERM."),
    tls_cert: Path | None = typer.Option(None, help="Certificate chain, PEM."),
    tls_key: Path | None = typer.Option(None, help="Its key, PEM."),
    tls_client_ca: Path | None = typer.Option(None, help="Clients must show a certificate of this authority (mTLS)."),
    tokens: Path | None = typer.Option(
        None, help="File with one `NAME TOKEN` a line; callers must show one. Or the variable RECSYS_TOKENS."
    ),
    log_level: str = typer.Option("info", help="debug, info, warning or error."),
) -> None:
    """Serve the current bundle over gRPC; with no Redis URL, an embedded persistent Valkey holds the users."""
    import uvloop

    from recsys.config import parse_config
    from recsys.errors import UsageError
    from services.rpc import logs
    from services.rpc.settings import ServeSettings
    from services.rpc.supervisor import Supervisor

    if durable_events and redis_url:
        raise UsageError("--durable-events is for the embedded store; tell your own Redis: appendfsync always")
    public, admin, metrics = _addresses(listen, admin_listen, metrics_listen)
    given = {
        "bundles": bundles.resolve(),
        "redis_url": redis_url or None,
        "namespace": namespace,
        "store_dir": store_dir,
        "durable_events": durable_events,
        "listen": public,
        "admin": admin,
        "metrics": metrics,
        "workers": workers or None,
        "max_in_flight": max_in_flight,
        "default_deadline_ms": default_deadline_ms,
        "user_cache_mb": user_cache_mb,
        "store_timeout_ms": store_timeout_ms,
        "drain_seconds": drain_seconds,
        "credentials": {"tls_cert": tls_cert, "tls_key": tls_key, "tls_client_ca": tls_client_ca, "tokens": tokens},
        "log_level": log_level,
    }
    optional = {"admin", "metrics", "redis_url", "store_dir"}
    values = {name: value for name, value in given.items() if value is not None or name in optional}
    settings: ServeSettings = parse_config(ServeSettings, values, "recsys serve")
    logs.configure(settings.log_level)
    uvloop.run(Supervisor(settings).run(_say_ready))


def _addresses(listen: str, admin: str, metrics: str) -> tuple[Address, Address | None, Address | None]:
    """The three addresses; Admin and metrics are on loopback unless told otherwise."""
    from services.rpc.settings import Address

    public = Address.parse(listen, "--listen")
    beside = Address(host="127.0.0.1", port=public.port)

    def other(text: str, flag: str, step: int) -> Address | None:
        if text == NONE:
            return None
        return Address.parse(text, flag) if text else beside.beside(step, flag)

    return public, other(admin, "--admin-listen", 1), other(metrics, "--metrics-listen", 2)


def _say_ready(supervisor: Supervisor) -> None:
    """One line that says where everything is; the first on standard output."""
    settings = supervisor.settings
    parts = [
        f"serving {supervisor.workers[0].version} on {settings.listen}",
        f"admin {settings.admin or NONE}",
        f"metrics {f'http://{settings.metrics}/metrics' if settings.metrics else NONE}",
        f"store {supervisor.store_kind}",
        f"{settings.workers} worker{'s' if settings.workers > 1 else ''}",
    ]
    print("; ".join(parts), flush=True)
