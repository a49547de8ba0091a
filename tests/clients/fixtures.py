"""Fixtures of the tests that run the contract of all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.contract import Place
from tests.clients.drivers import Driver, Kind
from tests.clients.endpoints import EVERYTHING, LIBRARY
from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.measuring import QUIET
from tests.live.servers import Server, manage

FILL = "from demo_project.library.fill import fill; fill()"
PLACES = {
    "everything": ("native", EVERYTHING),
    "library": ("native", LIBRARY),
    "view-everything": ("view", EVERYTHING),
    "view-library": ("view", LIBRARY),
}


@pytest.fixture(scope="session")
def library(database: Database) -> None:
    """The demo's books are in the database of all servers."""
    manage(database.url, "shell", "--verbosity", "0", "--command", FILL)


class Entries(dict[str, Server]):
    """A server for each entry, started when it is needed."""

    def __init__(self, start: Serve) -> None:
        super().__init__()
        self.start = start

    def __missing__(self, entry: str) -> Server:
        server = self[entry] = self.start(entry=entry, DJANGO_SETTINGS_MODULE="tests.clients.settings", **QUIET)
        return server


@pytest.fixture(scope="module")
def entries(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entries]:
    with serving(database, tmp_path_factory.mktemp("entries")) as start:
        yield Entries(start)


def place_of(request: pytest.FixtureRequest) -> Place:
    """The place that a fixture's parameter names."""
    entry, endpoint = PLACES[request.param]
    if endpoint is LIBRARY:
        request.getfixturevalue("library")
    return Place(request.getfixturevalue("entries")[entry], endpoint)


@pytest.fixture(
    scope="module",
    params=["everything", "library", "view-everything", pytest.param("view-library", marks=pytest.mark.long)],
)
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request)


@pytest.fixture(scope="module")
def driver(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with kind.start(tmp_path_factory.mktemp("driver") / "client.err") as driver:
        yield driver
