"""Fixtures of the contract: servers and client processes that are kept for the whole module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.drivers import Driver
from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.measuring import QUIET
from tests.live.servers import Server, manage

FILL = "from demo_project.library.fill import fill; fill()"


class Servers(dict[str, Server]):
    """Servers by name, which begins with their entry; started when they are asked for."""

    def __init__(self, start: Serve) -> None:
        super().__init__()
        self.start = start

    def __missing__(self, name: str) -> Server:
        entry = name.partition("-")[0]
        server = self[name] = self.start(entry=entry, DJANGO_SETTINGS_MODULE="tests.clients.settings", **QUIET)
        return server


class Drivers(dict[Callable[[Path], Driver], Driver]):
    """Client processes, one for all modes of a release; started when they are asked for."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        super().__init__()
        self.directory = directory
        self.stack = stack

    def __missing__(self, start: Callable[[Path], Driver]) -> Driver:
        driver = self[start] = self.stack.enter_context(start(self.directory / f"{start.__name__}.err"))
        return driver


@pytest.fixture(scope="module")
def running_servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    manage(database.url, "shell", "--verbosity", "0", "--command", FILL)
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield Servers(start)


@pytest.fixture(scope="module")
def running_drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    with ExitStack() as stack:
        yield Drivers(tmp_path_factory.mktemp("drivers"), stack)
