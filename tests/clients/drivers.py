"""Real MCP clients as child processes: their installation, and a conversation with each in JSON lines."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "clients"
PYTHON_ONE = "mcp>=1.30,<2"
TYPESCRIPT_ONE = "@modelcontextprotocol/sdk@^1.29.0"
TYPESCRIPT_TWO = "@modelcontextprotocol/client@^2.4.0"
INSTALL_SECONDS = 300
ANSWER_SECONDS = 90


class ClientError(Exception):
    """The client under test raised."""


class Driver:
    """One client process; it holds at most one session."""

    def __init__(self, command: Sequence[str | Path], errors: Path, **environment: str) -> None:
        self.errors = errors
        with errors.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | environment,
                text=True,
            )

    def ask(self, do: str, **arguments: object) -> Any:
        """Send one command; a client that stays silent, or ends, fails the test with what it wrote."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            answered = selector.select(ANSWER_SECONDS)
        line = self.process.stdout.readline() if answered else ""
        if not line:
            # What it may still say would be taken for the answer to something else.
            self.process.kill()
            pytest.fail(f"The client gave no answer to {do!r}:\n{self.errors.read_text(errors='replace')[-4000:]}")
        answer = json.loads(line)
        if not answer["ok"]:
            raise ClientError(answer["error"])
        return answer["result"]

    def connect(self, url: str, name: str, token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.ask("connect", url=url, name=name, headers=headers)

    def call(self, tool: str, **arguments: object) -> Any:
        result = self.ask("call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    def refused(self, do: str, **arguments: object) -> str:
        """What the client says to a command that must fail: an exception, or an error result."""
        try:
            result = self.ask(do, **arguments)
        except ClientError as error:
            return str(error)
        assert result.get("isError"), result
        return str(result["content"])

    def close(self) -> None:
        self.ask("close")

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def python_two(errors: Path) -> Driver:
    return Driver([sys.executable, "-m", "tests.clients.python_two"], errors, PYTHONPATH=str(ROOT))


def python_one(errors: Path) -> Driver:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = CACHE / f"py1-{version}"
    python = home / "bin" / "python"
    with installation(home) as wanted:
        if wanted:
            install([sys.executable, "-m", "venv", home], "the Python client 1.x")
            install([python, "-m", "pip", "install", "--quiet", PYTHON_ONE], "the Python client 1.x")
    return Driver([python, "-m", "tests.clients.python_one"], errors, PYTHONPATH=str(ROOT))


def typescript_one(errors: Path) -> Driver:
    return typescript("1", TYPESCRIPT_ONE, HERE / "typescript_one.mjs", errors)


def typescript_two(errors: Path) -> Driver:
    return typescript("2", TYPESCRIPT_TWO, HERE / "typescript_two.mjs", errors)


def typescript(release: str, package: str, driver: Path, errors: Path) -> Driver:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        unavailable("the TypeScript clients need node and npm on PATH")
    home = CACHE / f"ts{release}"
    with installation(home) as wanted:
        if wanted:
            (home / "package.json").write_text('{"private": true}')
            options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            install([npm, "install", *options, "--prefix", home, package], f"the TypeScript client {release}.x")
    return Driver([node, driver], errors, NODE_MODULES_HOME=str(home))


CLIENTS = {
    "python-2": python_two,
    "python-1": python_one,
    "typescript-2": typescript_two,
    "typescript-1": typescript_one,
}


@contextmanager
def installation(home: Path) -> Iterator[bool]:
    """Whether `home` is still to be filled; one process at a time, and a broken attempt does not count."""
    home.mkdir(parents=True, exist_ok=True)
    stamp = home / ".complete"
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = not stamp.exists()
        yield wanted
        stamp.touch()


def install(command: Sequence[str | Path], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        unavailable(f"{what} could not be installed: {error.stderr.strip()[-400:]}")
    except subprocess.TimeoutExpired:
        unavailable(f"{what} could not be installed within {INSTALL_SECONDS} s")


def unavailable(reason: str) -> NoReturn:
    """Skip where a network or a runtime is missing; continuous integration has to have both."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
