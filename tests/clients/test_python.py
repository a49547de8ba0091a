"""The contract of all clients, for the official Python clients."""

from __future__ import annotations

import pytest

from tests.clients.contract import ClientContract
from tests.clients.drivers import PYTHON_KINDS, Kind

pytestmark = [pytest.mark.live, pytest.mark.clients]


@pytest.fixture(scope="module", params=PYTHON_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return PYTHON_KINDS[request.param]


class TestPythonClients(ClientContract):
    pass
