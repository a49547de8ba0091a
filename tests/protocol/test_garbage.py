"""What a request leaves behind: nothing that only the garbage collector finds, since its full runs stop the loop."""

from __future__ import annotations

import gc

import pytest

from mcp_django.models import Session
from tests.protocol.client import Client
from tests.protocol.entries import application_of

pytestmark = pytest.mark.anyio

CALLS = 20


@pytest.mark.parametrize("tool", ["facts", "acount"])
async def test_a_call_through_the_native_entry_leaves_no_reference_cycles(tool: str) -> None:
    session = await Client(application_of("native")).open()
    await session.call(tool)
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            await session.call(tool)
        found = gc.collect()
    finally:
        gc.enable()
    # The test's own client leaves some; one of ours would leave dozens at each call.
    assert found < CALLS, f"{found} objects after {CALLS} calls"
    assert await Session.objects.acount() == 1
