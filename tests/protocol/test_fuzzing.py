"""Whatever comes in, no answer and no log line is a server error, and the next valid call is answered right."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from tests.protocol.client import SECONDS, Client, Exchange, Session
from tests.protocol.fuzzing import Mutator

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

AT_ONCE = 8
# By which CommonMiddleware tells of a Host that it refuses.
DJANGOS_OWN = ("django.security.DisallowedHost",)


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 400), *(pytest.param(seed, 8_400, marks=pytest.mark.long) for seed in (1, 2, 3))]
)
async def test_mutated_requests_harm_nobody(
    client: Client, settings: Settings, caplog: pytest.LogCaptureFixture, seed: int, count: int
) -> None:
    settings.MCP_DJANGO_MAX_ADDRESS_SESSIONS = 200
    settings.MCP_DJANGO_MAX_BODY_BYTES = 100_000
    caplog.set_level(logging.ERROR)
    mutator = Mutator(client, seed)
    session, event_id = await begun(client)
    for start in range(0, count, AT_ONCE):
        exchanges = [mutator.begin(session, event_id) for _ in range(AT_ONCE)]
        for exchange, told in exchanges:
            try:
                await judged(exchange)
            except BaseException as error:
                error.add_note(f"Seed {seed}, among the requests from {start} on: {told}")
                raise
        errors = [record for record in caplog.records if record.name not in DJANGOS_OWN]
        assert [record.getMessage() for record in errors] == [], exchanges
        if start % 1000 < AT_ONCE:
            # A mutated one may have ended it rightly: by a DELETE that was valid.
            if (await session.request("ping")).status == 404:
                session, event_id = await begun(client)
            assert (await session.call("add", a=20, b=22))["result"] == 42


async def begun(client: Client) -> tuple[Session, str]:
    """A session, and the id of an event of its."""
    session = await client.open()
    stream = await session.stream("steps", steps=2)
    await stream.rest()
    return session, stream.last_id or ""


async def judged(exchange: Exchange) -> None:
    """See that an exchange is answered, with no server error."""
    async with asyncio.timeout(SECONDS):
        start = await exchange.message()
        if start is None:
            # Only a request that never ended has no answer; else what went wrong is raised here.
            await exchange.task
            raise AssertionError("No answer.")
        headers = {name.lower(): value for name, value in start["headers"]}
        assert start["status"] < 500, start
        if headers.get(b"content-type") == b"text/event-stream":
            exchange.disconnect()
            await asyncio.wait([exchange.task])
            return
        body = b""
        while (message := await exchange.message()) is not None:
            body += message.get("body", b"")
        await exchange.task
    assert b"Traceback" not in body
    if headers.get(b"content-type") == b"application/json" and body:
        json.loads(body)
