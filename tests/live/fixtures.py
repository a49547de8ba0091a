"""Fixtures of the tests that start servers; the conftests of `live` and `clients` import them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.databases import Database, scratch_database
from tests.live.servers import ENTRIES, Server, manage, one_by_default

Serve = Callable[..., Server]
OUTPUT_SHOWN = 8000
running: list[Server] = []


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The database that all servers of this run share, migrated once."""
    with scratch_database(tmp_path_factory.mktemp("database")) as scratch:
        manage(scratch.url, "migrate", "--verbosity", "0")
        yield scratch


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Serve]:
    """Start a server, e.g. `serve("daphne", "view", SESSION_STORE="memory")`; check its output at the end."""
    with serving(database, tmp_path) as start:
        yield start


class Pair(NamedTuple):
    """Two processes of one project."""

    a: Server
    b: Server


@pytest.fixture(scope="module", params=one_by_default(ENTRIES))
def pair(
    request: pytest.FixtureRequest, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two servers that share the database, for all tests of a module."""
    with serving(database, tmp_path_factory.mktemp("pair")) as start:
        yield Pair(start(entry=request.param), start(entry=request.param))


@contextmanager
def serving(database: Database, directory: Path) -> Iterator[Serve]:
    """Servers that live until the end of a test or of a module."""
    with ExitStack() as stack:

        def start(kind: str = "uvicorn", entry: str = "native", **options: Any) -> Server:
            options.setdefault("database_url", database.url)
            server = Server(kind, entry, output=directory / f"server-{len(running)}.log", **options)
            stack.callback(running.remove, server)
            running.append(server)
            return stack.enter_context(server)

        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows what its servers said."""
    report = yield
    if report.failed:
        for server in running:
            report.sections.append((f"Output of {server!r}", server.output[-OUTPUT_SHOWN:]))
    return report
