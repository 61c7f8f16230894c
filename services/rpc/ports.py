"""Taking the ports of a server before anything is started, so that a conflict is one clear sentence."""

from __future__ import annotations

import socket

from recsys.errors import UsageError
from services.rpc.settings import Address


def reserve(address: Address, flag: str) -> tuple[Address, socket.socket]:
    """Checks that an address is free and holds its port for processes that share it by SO_REUSEPORT.

    The returned socket is bound but never listens, so it receives no connection.

    Returns:
        The address with the port that was really taken, and the socket to keep open.

    Raises:
        UsageError: names the flag, the address and why it cannot be taken.
    """
    free = check_free(address, flag)
    holder = _socket(free)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind(holder, free, flag)
    return free, holder


def check_free(address: Address, flag: str) -> Address:
    """The address with a port that nobody listens on; port 0 becomes a free one.

    Without this, SO_REUSEPORT would let two servers share a port and their callers by chance.

    Raises:
        UsageError: as `reserve`.
    """
    with _socket(address) as probe:
        # A port that is only in TIME_WAIT is free; one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(probe, address, flag)
        try:
            probe.listen(1)
        except OSError as error:
            raise _refusal(address, flag, error) from None
        return Address(host=address.host, port=probe.getsockname()[1])


def _socket(address: Address) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)


def _bind(sock: socket.socket, address: Address, flag: str) -> None:
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise _refusal(address, flag, error) from None


def _refusal(address: Address, flag: str, error: OSError) -> UsageError:
    reason = error.strerror or str(error)
    return UsageError(f"{flag} {address}: cannot listen there ({reason}); choose another address or end what uses it")
