"""The stateless era: one request, one answer, and nothing else anywhere."""

from __future__ import annotations

import pytest

from tests.protocol.client import Client
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio


async def test_a_call_is_answered_with_its_result(client: Client) -> None:
    assert await Stateless(client).call("add", a=2, b=3) == {"result": 5}
