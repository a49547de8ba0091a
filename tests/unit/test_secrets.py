"""A session id is a bearer secret: what error reports and debuggers print of our objects must not show it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.http import HttpRequest

from mcp_django import Context, MCPServer
from mcp_django.auth import ANONYMOUS, public
from mcp_django.http import Request, session_not_found
from mcp_django.sessions import Visit
from mcp_django.testing import connect

SECRET = "the-secret-session-id"
TOKEN = "the-secret-token"

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_servers", "in_memory")]


def test_not_a_request_nor_a_visit() -> None:
    headers = [(b"mcp-session-id", SECRET.encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
    request = Request("POST", headers, b"", lambda body: HttpRequest())
    visit = Visit(MCPServer("secrets").kernel, SECRET, ANONYMOUS, request)
    for shown in (request, visit, session_not_found(), session_not_found().response):
        assert SECRET not in f"{shown!r} {shown!s}"
        assert TOKEN not in f"{shown!r} {shown!s}"


async def test_not_a_context_nor_anything_it_leads_to(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = MCPServer("secrets", authenticators=[public])
    seen: list[Any] = []

    @server.tool()
    def look(ctx: Context) -> None:
        seen.extend([ctx.session_id, ctx, ctx.call, ctx.call.session, ctx.restored, ctx.state, ctx.call.http])
        logging.getLogger("project").info("called in %r by %r: %r", ctx, ctx.user, ctx.call)

    async with connect(server, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.restart()
        await client.call_tool("look")
        assert client.session_id
        session_id, *objects = seen
        assert session_id == client.session_id
        assert objects[3] is not None
        for shown in objects:
            assert client.session_id not in f"{shown!r} {shown!s}"
        assert client.session_id not in caplog.text
        assert TOKEN not in caplog.text
