"""Addresses, ports and secrets are checked before anything starts; each refusal names its flag."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from recsys.errors import UsageError
from services.rpc import credentials, ports
from services.rpc.settings import Address, Credentials, ServeSettings


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:9", "::1", 9),
        ("9000", "127.0.0.1", 9000),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses_as_people_write_them(text: str, host: str, port: int) -> None:
    address = Address.parse(text, "--listen")
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:99999", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        Address.parse(text, "--listen")


def test_there_is_no_port_beside_the_last_one() -> None:
    with pytest.raises(UsageError, match="--metrics-listen"):
        Address(host="127.0.0.1", port=65534).beside(2, "--metrics-listen")


def test_a_port_that_somebody_listens_on_is_refused_even_if_he_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = Address(host="127.0.0.1", port=other.getsockname()[1])
        with pytest.raises(UsageError, match=f"--listen 127.0.0.1:{taken.port}.*in use"):
            ports.reserve(taken, "--listen")


def test_a_reserved_port_can_be_shared_by_workers_and_takes_no_connection_itself() -> None:
    address, holder = ports.reserve(Address(host="127.0.0.1", port=0), "--listen")
    with holder, socket.socket() as caller:
        assert address.port > 0
        assert caller.connect_ex((address.host, address.port)) != 0
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind((address.host, address.port))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_cert": "here"}, "--tls-key"),
        ({"tls_key": "here"}, "--tls-cert"),
        ({"tls_client_ca": "here"}, "--tls-cert"),
        ({"tls_cert": "absent", "tls_key": "here"}, "--tls-cert"),
        ({"tokens": "absent"}, "--tokens"),
        ({"tokens": "empty"}, "NAME TOKEN"),
        ({"tokens": "here"}, "NAME TOKEN"),
    ],
)
def test_credentials_that_cannot_work_are_refused(tmp_path: Path, given: dict[str, str], named: str) -> None:
    (tmp_path / "here").write_text("only-one-word\n")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(UsageError, match=named):
        credentials.check(Credentials(**{name: tmp_path / file for name, file in given.items()}))


def test_tokens_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials.interceptors(Credentials()) == []
    monkeypatch.setenv(credentials.TOKENS_VARIABLE, "web abc, batch def")
    assert len(credentials.interceptors(Credentials())) == 1


def test_a_password_in_the_stores_url_does_not_show() -> None:
    settings = ServeSettings(
        bundles=Path("b"), redis_url="redis://:hunter2@host/0", listen=Address(host="127.0.0.1", port=1)
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
