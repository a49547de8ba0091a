"""A session id and an Authorization header are secrets: no log line and no column holds them."""

from __future__ import annotations

import logging

import pytest
from django.apps import apps
from django.contrib.auth.models import User

from mcp_django.models import digest_of
from tests.protocol.client import Client
from tests.protocol.outage import refusing
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage

pytestmark = pytest.mark.anyio


async def busy_life(client: Client, stage: Stage, server_processes: Processes) -> list[str]:
    """A session through good and bad; returns what must be found nowhere."""
    assert client.token is not None
    session = await client.open("2025-03-26", name="the client")
    secrets = [session.id, client.token]
    for tool in ("count", "acount", "facts", "facts_in_thread", "handled"):
        await session.call_tool(tool)
    for how in ("tool", "handler", "plain", "mcp"):
        await session.post(session.tool("fail", how=how))
        await session.post(session.tool("fail_in_thread", how=how))
    await session.post([client.message("ping"), session.tool("count")])
    await session.request("logging/setLevel", {"level": "debug"})
    await session.request("prompts/get", {"name": "broken_prompt"})
    await session.request("resources/read", {"uri": "test://broken"})
    await session.request("no/such/method")
    await session.post_bytes(b"{")
    await session.post(client.message("ping"), {"Mcp-Session-Id": [session.id] * 2})
    await session.post(client.message("ping"), {"Accept": "text/html"})
    await session.post(client.message("ping"), {"Origin": "https://evil.example"})
    async with session.listening() as stream:
        assert await stream.frame()
    await session.get("nonsense").response()
    told, answer = await (await session.stream("tell_secrets")).rest()
    assert told["params"]["message"] == "the session is [session id]"
    assert answer["result"]["structuredContent"]["session_id"] == "[session id]"
    with refusing():
        await session.request("ping")
        await session.delete()
    gate = stage.hold("here")
    message = session.tool("pause", place="here")
    exchange = session.begin(message)
    await gate.reached()
    await session.cancel(message["id"])
    await exchange.response()
    await server_processes.another()
    stage.fail("on_restore", RuntimeError("The hook has a bug."))
    await session.request("ping")
    await session.call_tool("facts")
    stage.fail("authenticate", RuntimeError("The authenticator has a bug."))
    assert (await session.request("ping")).status == 500
    await session.delete()
    await session.request("ping")
    return secrets


async def test_no_log_line_at_any_level_holds_a_secret(
    alice: Client, stage: Stage, server_processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("django", "mcp_django", "mcp"):
        caplog.set_level(logging.DEBUG, logger=name)
    secrets = await busy_life(alice, stage, server_processes)
    lines = [f"{record.getMessage()} {record.args!r} {record.exc_text or ''}" for record in caplog.records]
    assert len(lines) > 10
    for secret in secrets:
        for line in [*lines, *caplog.text.splitlines()]:
            assert secret not in line
    assert any(digest_of(secrets[0])[:12] in line for line in lines), "The digest's beginning tells sessions apart."


async def test_no_column_of_ours_holds_a_secret(alice: Client, stage: Stage, server_processes: Processes) -> None:
    await User.objects.acreate(username="alice")
    secrets = await busy_life(alice, stage, server_processes)
    seen = 0
    for model in apps.get_app_config("mcp_django").get_models():
        async for row in model._default_manager.values():
            seen += 1
            for secret in secrets:
                assert secret not in repr(row)
    assert seen >= 2, "One session and its process at least."


async def test_no_answer_holds_the_id_but_the_handshake_s_own_and_what_a_tool_says(client: Client) -> None:
    session = await client.open()
    for response in (
        await session.request("ping"),
        await session.request("tools/list"),
        await session.notify("notifications/initialized"),
        await session.post(session.tool("count")),
        await session.delete(),
        await session.request("ping"),
    ):
        assert session.id not in response.body.decode()
        assert session.id not in repr(response.headers)


async def test_what_goes_wrong_inside_is_a_500_that_says_nothing_and_is_logged(
    alice: Client, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    session = await alice.open()
    stage.fail("authenticate", RuntimeError("The secret reason."))
    response = await session.request("ping")
    assert response.status == 500
    assert response.error["code"] == -32603
    assert "secret" not in response.body.decode()
    assert "The secret reason." in caplog.text
    assert (await session.request("ping")).result == {}
