"""The contract of all clients, for the official TypeScript clients."""

from __future__ import annotations

import pytest

from tests.clients.contract import ClientContract
from tests.clients.drivers import TYPESCRIPT_KINDS, Kind

pytestmark = [pytest.mark.live, pytest.mark.clients]


@pytest.fixture(scope="module", params=TYPESCRIPT_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return TYPESCRIPT_KINDS[request.param]


class TestTypeScriptClients(ClientContract):
    pass
