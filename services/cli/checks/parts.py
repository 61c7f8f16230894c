"""The parts around the program: feature store, Ray, ports, tools."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recsys.errors import RecsysError
from services.cli.checks.finding import Finding, missing, ok, warning
from services.cli.checks.packages import installed_version, numbers

if TYPE_CHECKING:
    from pipelines.cluster import Cluster

GROUP: Final = "parts"
MOST_SKEW_SECONDS: Final = 60.0
STORE_SECONDS: Final = 5.0
LEAST_REDIS: Final = (6, 2)
_TOOLS: Final = {"h2load": "apt-get install nghttp2-client; only `recsys bench serve` needs it"}


def check_store(url: str | None) -> Finding:
    """The Redis or Valkey at a URL, else whether the embedded one starts here."""
    try:
        return asyncio.run(_ask_store(url)) if url is not None else _embedded()
    except (ImportError, RecsysError) as error:
        advice = "start it, or correct --redis-url; with none, recsys serve runs a Valkey of its own"
        if url is None:
            advice = "pip install 'recsys[serve]', or give recsys serve a --redis-url"
        return missing(GROUP, "feature store", str(error), advice)


async def _ask_store(url: str) -> Finding:
    from recsys.stores.link import Link, pack, redacted, refuse_errors

    link = Link(url, STORE_SECONDS, retry_after=0.0)
    try:
        started = time.perf_counter()
        answers = await link.exchange(pack("INFO", "server") + pack("TIME"), 2)
        millis = 1e3 * (time.perf_counter() - started)
    finally:
        await link.close()
    refuse_errors(answers, link.name)
    name, version = _server(answers[0].decode(errors="replace"))
    skew = float(answers[1][0]) - time.time()
    found = f"{name} {version} at {redacted(url)}, first answer in {millis:.1f} ms"
    if numbers(version) < LEAST_REDIS:
        advice = f"it must be Redis {'.'.join(map(str, LEAST_REDIS))} or later, or any Valkey"
        return missing(GROUP, "feature store", found, advice)
    if abs(skew) > MOST_SKEW_SECONDS:
        return warning(GROUP, "feature store", f"{found}; its clock is {skew:+.0f} s off", "set both clocks by NTP")
    return ok(GROUP, "feature store", found)


def _server(info: str) -> tuple[str, str]:
    """Name and version of a server, from what it says of itself; Valkey also gives the Redis that it is like."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "valkey_version" in fields:
        return "Valkey", fields["valkey_version"]
    return "Redis", fields.get("redis_version", "0")


def _embedded() -> Finding:
    from recsys.stores.embedded import EmbeddedValkey

    with tempfile.TemporaryDirectory(prefix="recsys-doctor-") as folder, EmbeddedValkey(Path(folder)) as server:
        there = asyncio.run(_ask_store(server.url))
    return Finding(
        GROUP, there.name, there.state, f"the embedded one starts: {there.found.split(' at ')[0]}", there.advice
    )


def check_ray(address: str | None, *, training: bool) -> Finding:
    """Whether Ray starts here, or the cluster at an address can be reached; its resources."""
    if installed_version("ray") is None:
        advice = "pip install 'recsys[train]'" + ("" if training else "; only training needs it")
        return missing(GROUP, "ray", "not installed", advice, needed=training)
    started = time.monotonic()
    try:
        from pipelines.cluster import ray_cluster

        with ray_cluster(address, cpus=1) as cluster:
            found = _resources(cluster, address)
    except (ImportError, RecsysError, OSError, RuntimeError) as error:
        advice = "see `ray status` there" if address else "see the memory and shared memory above, then /tmp/ray"
        return missing(GROUP, "ray", " ".join(str(error).split())[:200], advice, needed=training or address is not None)
    return ok(GROUP, "ray", f"{found}, in {time.monotonic() - started:.1f} s")


def _resources(cluster: Cluster, address: str | None) -> str:
    if address is None:
        return "a local session starts"
    cpus, gpus = sum(node.cpus for node in cluster.nodes), sum(node.gpus for node in cluster.nodes)
    return f"the cluster at {address} answers; {len(cluster.nodes)} nodes, {cpus} cores, {gpus} GPUs"


def check_ports() -> list[Finding]:
    """Whether the ports that `recsys serve` takes by default are free."""
    try:
        from services.rpc.ports import check_free
        from services.rpc.settings import DEFAULT_LISTEN, Address
    except ImportError as error:
        return [missing(GROUP, "ports", f"not looked at: {error}", "pip install 'recsys[serve]'")]
    listen = Address.parse(DEFAULT_LISTEN, "--listen")
    findings = []
    for step, flag in enumerate(("--listen", "--admin-listen", "--metrics-listen")):
        address = listen.beside(step, flag)
        try:
            check_free(address, flag)
        except RecsysError:
            advice = f"if it is not a server of this project's, start yours with {flag} HOST:PORT"
            findings.append(warning(GROUP, f"port {address.port}", "taken", advice))
        else:
            findings.append(ok(GROUP, f"port {address.port}", f"free, for {flag}"))
    return findings


def check_tools() -> list[Finding]:
    """Programs that single verbs need."""
    return [
        ok(GROUP, name, path) if (path := shutil.which(name)) else warning(GROUP, name, "not installed", advice)
        for name, advice in _TOOLS.items()
    ]
