"""Real server processes: start, wait till they answer, kill, start again on the same port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "demo_project.asgi:application"
SETTINGS = "tests.live.settings"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
KINDS = ("uvicorn", "daphne", "granian")
ENTRIES = ("native", "view")


def some_by_default(cases: Iterable[Any], chosen: Container[Any]) -> list[Any]:
    """Those chosen as they are, the others only where long tests are asked for: each server takes seconds to start."""
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.long) for case in cases]


def one_by_default(cases: Iterable[str]) -> list[Any]:
    """The first as it is, the others only where long tests are asked for."""
    first, *others = cases
    return some_by_default([first, *others], {first})


def command(kind: str, port: int) -> list[str]:
    """How a deployment starts the demo under each server."""
    match kind:
        case "uvicorn":
            arguments = ["--host", "127.0.0.1", "--port", str(port), APPLICATION]
        case "daphne":
            arguments = ["-b", "127.0.0.1", "-p", str(port), APPLICATION]
        case "granian":
            arguments = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), APPLICATION]
        case "gunicorn":
            arguments = ["-k", "asgi", "-b", f"127.0.0.1:{port}", APPLICATION]
        case "runserver":
            return [sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}"]
        case _:
            raise ValueError(f"Unknown server {kind!r}: expected one of {', '.join(KINDS)}, gunicorn, runserver.")
    return [sys.executable, "-m", kind, *arguments]


def environment(database_url: str, **more: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        **more,
    }


def manage(database_url: str, *arguments: str, **more: str) -> str:
    """Run a management command and return what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(database_url, **{"LIVE_LOG_LEVEL": "WARNING", **more}),
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
        text=True,
    )
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """For conditions in another process, which no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s.")
        time.sleep(0.02)


class Server:
    """One server process (with the children it starts) on a port that it keeps over restarts.

    `secrets` gathers what must never show up in its output; `may_log_tracebacks` is for tests that take its
    database away.
    """

    def __init__(
        self,
        kind: str,
        entry: str,
        database_url: str,
        output: Path,
        *,
        may_log_tracebacks: bool = False,
        **more: str,
    ) -> None:
        self.kind = kind
        self.entry = entry
        self.output_path = output
        self.may_log_tracebacks = may_log_tracebacks
        self.environment = environment(database_url, MCP_ENTRY=entry, **more)
        self.secrets: set[str] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.http = self._pool()

    def __repr__(self) -> str:
        return f"<{self.kind}, {self.entry} entry, port {self.port}>"

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _pool(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=128, max_keepalive_connections=128)
        return httpx.Client(base_url=self.url(), timeout=60, trust_env=False, limits=limits)

    def disconnect(self) -> None:
        """Close the idle connections that this client keeps alive. Some servers wait for them when they stop."""
        self.http.close()
        self.http = self._pool()

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

    def start(self) -> None:
        with self.output_path.open("ab") as output:
            self.process = subprocess.Popen(
                command(self.kind, self.port),
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: granian's workers must die with it.
                start_new_session=True,
            )
        wait_until(self.answers, f"{self!r} answers", START_SECONDS)

    def answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"{self!r} ended before it answered:\n{self.output[-4000:]}")
        try:
            self.http.get("/everything/mcp")
        except httpx.TransportError:
            return False
        return True

    def kill(self) -> None:
        """`kill -9`: no farewell, nothing flushed."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=STOP_SECONDS)
        self.process = None
        wait_until(self.is_silent, f"{self!r} and its children are gone")

    @property
    def pid(self) -> int:
        """Of the main process, which is the one that serves under uvicorn and daphne."""
        assert self.process is not None, f"{self!r} does not run"
        return self.process.pid

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> float:
        """SIGTERM to the main process, as a supervisor does, or SIGINT to all of them, as a terminal does on Ctrl-C.

        But for granian: its main process signals the workers once more, and a worker with open streams that gets two
        signals sometimes blocks for ever in granian's own handler (2.8.7, `WorkerSignal.set`; 2 of 90 times).

        Returns:
            how long it took to end, in seconds.
        """
        assert self.process is not None, f"{self!r} does not run"
        started = time.monotonic()
        if number == signal.SIGINT and self.kind != "granian":
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self._wait()
        elapsed = time.monotonic() - started
        self.process = None
        wait_until(self.is_silent, f"{self!r} leaves no child behind")
        return elapsed

    def _wait(self) -> None:
        """Wait for the end. Where it does not come, the output tells what each thread is doing instead."""
        assert self.process is not None
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # PYTHONFAULTHANDLER makes of it a dump of all threads.
            os.killpg(self.process.pid, signal.SIGABRT)
            raise

    def freeze(self) -> None:
        """SIGSTOP: it lives and does nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.killpg(self.pid, signal.SIGCONT)

    def memory(self) -> int:
        """Resident bytes of the main process."""
        (line,) = (row for row in self._proc("status").splitlines() if row.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def threads(self) -> int:
        """How many threads the main process has."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def is_silent(self) -> bool:
        """Nobody listens on the port. (Dead children may stay zombies for a while: nobody waits for them.)"""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def restart(self) -> None:
        self.kill()
        self.start()

    def check_output(self) -> None:
        output = self.output
        for secret in self.secrets:
            assert secret not in output, f"{self!r} wrote a session id or a token to its output"
        if not self.may_log_tracebacks:
            assert "Traceback" not in output, f"{self!r} logged a traceback:\n{output[-4000:]}"

    def close(self) -> None:
        self.http.close()
        self.kill()

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.check_output()
