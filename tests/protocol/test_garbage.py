"""What a request leaves behind: nothing that only the garbage collector finds, since its full runs stop the loop."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from mcp_django import streams
from mcp_django.models import Session as Row
from mcp_django.wakeups import Wakeups
from tests.protocol.client import Client, Session
from tests.protocol.entries import application_of
from tests.protocol.stateless import Stateless, with_progress

pytestmark = pytest.mark.anyio

REQUESTS = 20


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client connects in a thread of its own, and leaves cycles at that."""
    monkeypatch.setattr(streams, "Wakeups", partial(Wakeups, layer=lambda: None))


async def quick_call(session: Session) -> None:
    await session.call("facts")


async def call_that_uses_the_state(session: Session) -> None:
    await session.call("acount")


async def call_that_streams(session: Session) -> None:
    assert len(await (await session.stream("steps", steps=2)).rest()) == 3


async def call_that_is_resumed(session: Session) -> None:
    stream = await session.stream("steps", steps=2)
    await stream.message()
    await stream.disconnect()
    await (await session.listen(stream.last_id)).rest()


async def call_that_asks(session: Session) -> None:
    # Not a form: pydantic's generator of schemas leaves cycles.
    stream = await session.begin(session.tool("ask_ping")).stream()
    await session.answer(await stream.question(), {})
    assert len(await stream.rest()) == 1


async def stateless_call(session: Session) -> None:
    await Stateless(session.client).call("steps", steps=0)


async def stateless_call_that_streams(session: Session) -> None:
    stateless = Stateless(session.client)
    stream = await stateless.stream(with_progress(stateless.tool("steps", {"steps": 2})))
    assert len(await stream.rest()) == 3


async def stateless_call_that_fails(session: Session) -> None:
    assert (await Stateless(session.client).call_tool("facts"))["isError"]


async def get_stream(session: Session) -> None:
    async with session.listening() as stream:
        assert await stream.frame()


@pytest.mark.parametrize(
    "request_once",
    [
        quick_call,
        call_that_uses_the_state,
        call_that_streams,
        call_that_is_resumed,
        call_that_asks,
        stateless_call,
        stateless_call_that_streams,
        stateless_call_that_fails,
        get_stream,
    ],
)
async def test_a_request_through_the_native_entry_leaves_no_reference_cycles(
    request_once: Callable[[Session], Awaitable[None]],
) -> None:
    session = await Client(application_of("native")).open()
    await request_once(session)
    gc.collect()
    gc.disable()
    try:
        for _ in range(REQUESTS):
            await request_once(session)
        found = gc.collect()
    finally:
        gc.enable()
    # The test's own client leaves some; one of ours would leave dozens at each request.
    assert found < REQUESTS, f"{found} objects after {REQUESTS} requests"
    assert await Row.objects.acount() == 1
