"""A server that answers what it was sent: the ceiling that a server on this machine is measured against."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from services.rpc.lifeline import die_with_parent
from services.rpc.settings import Address

SERVICE: Final = "recsys.bench.Echo"
METHOD: Final = "Echo"


async def _echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return request


async def serve(address: Address) -> None:
    """Echoes bytes at an address that other processes may share, until killed."""
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 1),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(str(address))
    await server.start()
    await asyncio.Event().wait()


def main(arguments: Sequence[str]) -> None:
    """`python -m services.rpc.echo HOST:PORT PARENT`."""
    address, parent = arguments
    die_with_parent(int(parent))
    uvloop.run(serve(Address.parse(address, "echo")))


def command(address: Address) -> list[str]:
    """The command line of one echo process, a child of this one."""
    return [sys.executable, "-m", "services.rpc.echo", str(address), str(os.getpid())]


if __name__ == "__main__":
    main(sys.argv[1:])
