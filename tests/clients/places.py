"""Where clients meet servers: an endpoint of the demo, and the server processes that it is reached on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.drivers import KINDS
from tests.clients.endpoints import EVERYTHING, LIBRARY, Endpoint
from tests.live.servers import Server
from tests.live.wire import Client

# The endpoint, and the servers by name, which begins with their entry. Between two a balancer alternates.
PLACES: dict[str, tuple[Endpoint, Sequence[str]]] = {
    "everything": (EVERYTHING, ["native"]),
    "library": (LIBRARY, ["native"]),
    "view-everything": (EVERYTHING, ["view"]),
    "view-library": (LIBRARY, ["view"]),
    "balanced-everything": (EVERYTHING, ["native", "native-2"]),
}
# The rest of the matrix is long. Each command of the Inspector is a process and a connection of its own, which takes
# most of a second; clients that look for the newest era meet the library.
SHORT = {
    "everything": {kind for kind in KINDS if not kind.endswith("-auto")},
    "library": {"python-2-auto", "typescript-1", "typescript-2-auto"},
    "view-everything": {"python-1", "python-2-modern", "typescript-2-legacy"},
}


@dataclass(frozen=True)
class Place:
    """An endpoint of server processes that share a database."""

    endpoint: Endpoint
    servers: Sequence[Server]

    def others(self) -> list[Client]:
        """Somebody else, connected to each of the servers."""
        first = Client(self.servers[0], path=self.endpoint.path).initialize()
        return [first, *(first.at(server) for server in self.servers[1:])]

    def keep_secret(self, session_id: str | None) -> None:
        if session_id:
            for server in self.servers:
                server.secrets.add(session_id)


def meeting(kind: str, place: str, *, long: bool) -> Any:
    """A parameter: which client meets which servers."""
    return pytest.param((kind, place), id=f"{kind}-{place}", marks=pytest.mark.long if long else ())


def meetings(*places: str) -> list[Any]:
    return [meeting(kind, place, long=kind not in SHORT.get(place, ())) for kind in KINDS for place in places]
