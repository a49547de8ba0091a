"""Servers under measurement: how each is started, one process on a loopback port, and surely ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.client import Endpoint
from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).parent.parent
PORTS = range(18140, 18170)
START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0

# All ASGI servers run alike: one process, the fastest loop and parser, no access log.
_UVICORN = (
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--loop", "uvloop", "--http", "httptools"),
    *("--no-access-log", "--log-level", "warning"),
)


@dataclass(frozen=True)
class Server:
    """A server that can be started: ``command`` with ``{port}`` for its port."""

    name: str
    command: tuple[str, ...]
    path: str
    has_sessions: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()


class Running:
    """A started server."""

    def __init__(self, server: Server, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.server = server
        self.endpoint = Endpoint(port, server.path, server.has_sessions, server.tokens)
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise BenchmarkError(f"{self.server.name} ended with {code} at its start:\n{self._log_tail()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.endpoint.port)) == 0:
                    return
            time.sleep(0.05)
        raise BenchmarkError(f"{self.server.name} did not listen in {START_TIMEOUT} s:\n{self._log_tail()}")

    def kill(self) -> None:
        """End it as a crash would: no farewell, nothing flushed."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT)

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


@contextmanager
def running(server: Server, directory: Path) -> Iterator[Running]:
    """Start one server, as :func:`running_all` does."""
    with running_all([server], directory) as (started,):
        yield started


@contextmanager
def running_all(servers: Sequence[Server], directory: Path) -> Iterator[list[Running]]:
    """Start servers on free ports, logging into ``directory``; end them on the way out in any case."""
    started: list[Running] = []
    try:
        for server in servers:
            started.append(_spawned(server, directory))
        for each in started:
            each.wait_until_it_listens()
        yield started
    finally:
        for each in started:
            each.stop()


def _spawned(server: Server, directory: Path) -> Running:
    port = _free_port()
    log = directory / f"{port}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in server.command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Running(server, port, process, log)


def this_project(database: Path, *, name: str = "this project", entry: str = "native") -> Server:
    return Server(
        name,
        (*_UVICORN, "--port", "{port}", "demo_project.asgi:application"),
        "/everything/mcp",
        environment={**django_environment(database), "MCP_ENTRY": entry},
    )


def in_stateless_era(server: Server, name: str) -> Server:
    """The same server under another name, and called as the stateless era has it."""
    return replace(server, name=name, has_sessions=False)


def official_sdk() -> Server:
    return _official_sdk("official SDK, stateful", "as_it_comes")


def official_sdk_json() -> Server:
    return _official_sdk("official SDK, stateful, JSON", "with_json_responses")


def official_sdk_with_events() -> Server:
    return _official_sdk("official SDK, stateful, event store in memory", "with_event_store")


def _official_sdk(name: str, factory: str) -> Server:
    application = f"benchmarks.peers.official_sdk:{factory}"
    return Server(name, (*_UVICORN, "--port", "{port}", "--factory", application), "/mcp")


def mcpz(python: Path, version: str) -> Server:
    """django-mcpz by the interpreter of its own environment, under WSGI.

    With one thread it answers most: a second one helps only tools that wait for something.
    """
    command = (
        *(str(python), "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "1"),
        *("--keep-alive", "60", "--log-level", "warning", "--bind", "127.0.0.1:{port}"),
        "benchmarks.peers.mcpz",
    )
    return Server(f"django-mcpz {version}, WSGI, no sessions", command, "/mcp", has_sessions=False)


def django_environment(database: Path | str, redis: str = "") -> dict[str, str]:
    """The demo project's environment: this database (a SQLite file or a URL), DEBUG off, nothing inherited that
    matters."""
    return {
        "DJANGO_SETTINGS_MODULE": "demo_project.settings",
        "DATABASE_URL": database if isinstance(database, str) else f"sqlite:///{database}",
        "DEBUG": "0",
        "REDIS_URL": redis,
        "SESSION_STORE": "",
    }


_next_port = 0


def _free_port() -> int:
    """The next port of the range that nothing listens on; in turn, so that none is reused at once."""
    global _next_port
    for _ in PORTS:
        port = PORTS[_next_port % len(PORTS)]
        _next_port += 1
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchmarkError(f"No free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1.")
