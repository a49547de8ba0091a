"""Two doors to one endpoint: which requests go through, and which are Django's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.test import override_settings

import mcp_django.asgi
from mcp_django.asgi import Application
from tests.protocol.client import Client, Response, Session, case
from tests.protocol.entries import Entry, application_now, application_of
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


def went_through_django(response: Response) -> bool:
    """A middleware of the demo's adds this header to all that Django answers."""
    return response.header("x-frame-options") is not None


# Which paths are endpoints


@pytest.mark.parametrize(
    "path",
    [
        "/protocol/mcp",
        "/protocol/mcp/",
        "/deep/er/some-tenant/mcp",
        "/deep/er/another-tenant/mcp/",
        "/by-name/anything",
        "/by-pattern/optional/mcp",
        "/by-pattern/optional/mcp/",
    ],
)
async def test_the_urlconf_alone_says_where_a_server_is(application: Application, entry: Entry, path: str) -> None:
    client = Client(application, path)
    for _ in range(2):
        session = await client.open()
        response = await session.post(session.tool("facts"))
        assert response.result["structuredContent"]["path"] == path
        assert went_through_django(response) == (entry == "view")


@pytest.mark.parametrize("path", ["/protocol/mcp", "/deep/er/tenant/mcp"])
async def test_a_path_is_an_endpoint_wherever_the_project_is_mounted(
    application: Application, entry: Entry, path: str
) -> None:
    client = Client(application, path, root_path="/mounted")
    session = await client.open()
    response = await session.post(session.tool("facts"))
    assert response.result["structuredContent"]["path"] == f"/mounted{path}"
    assert went_through_django(response) == (entry == "view")


@pytest.mark.parametrize("path", ["/by-pattern/endpoint", "/by-pattern/7/mcp"])
async def test_a_route_may_be_a_regular_expression(
    application: Application, entry: Entry, settings: Settings, path: str
) -> None:
    settings.ROOT_URLCONF = "tests.protocol.moved_urls"
    client = Client(application, path)
    session = await client.open()
    response = await session.post(session.tool("add", a=1, b=2))
    assert response.result["structuredContent"] == {"result": 3}
    assert went_through_django(response) == (entry == "view")


async def test_a_session_may_be_used_at_every_url_of_its_server_and_through_either_entry(
    application: Application,
) -> None:
    session = await Client(application, "/protocol/mcp").open()
    for path in ("/protocol/mcp/", "/deep/er/tenant/mcp", "/by-name/x", "/guarded/mcp"):
        assert (await session.of(Client(application, path)).call("add", a=1, b=2)) == {"result": 3}
    other: Entry
    for other in ("native", "view", "native"):
        client = Client(application_of(other))
        assert (await session.of(client).call("add", a=1, b=2)) == {"result": 3}


async def test_a_decorated_view_keeps_its_decorator(application: Application, stage: Stage) -> None:
    client = Client(application, "/guarded/mcp")
    session = await client.open(initialized=False)
    assert stage.count("guarded") == 1
    response = await session.post(session.tool("add", a=1, b=2))
    assert stage.count("guarded") == 2
    assert went_through_django(response)


DJANGO_S = {
    "/": 200,
    "/somewhere/mcp-docs": 200,
    "/nowhere/mcp": 404,
    "/protocol/mcp/extra": 404,
    "/protocol/MCP": 404,
    "/protocol//mcp": 404,
    "//protocol/mcp": 404,
    "/by-name/not a slug": 404,
    "/mcp": 404,
}


async def test_every_other_path_is_django_s(application: Application) -> None:
    for path, status in DJANGO_S.items():
        with case(path):
            response = await Client(application, path).request("GET")
            assert response.status == status
            assert went_through_django(response)
            if status == 200:
                assert response.body == b"Not MCP."


async def test_another_urlconf_counts_from_the_next_request_on(
    application: Application, entry: Entry, settings: Settings
) -> None:
    before, after = Client(application, "/protocol/mcp"), Client(application, "/moved/mcp")
    session = await before.open()
    assert (await after.request("GET")).status == 404
    settings.ROOT_URLCONF = "tests.protocol.moved_urls"
    response = await session.of(after).post(session.tool("add", a=1, b=2))
    assert response.result["structuredContent"] == {"result": 3}
    assert went_through_django(response) == (entry == "view")
    assert (await before.request("GET")).body == b"Not MCP."
    settings.ROOT_URLCONF = "tests.protocol.urls"
    assert (await session.call("add", a=1, b=2)) == {"result": 3}
    assert (await after.request("GET")).status == 404


# Lifespan


async def test_lifespan_is_answered_by_the_native_entry_and_needed_by_none() -> None:
    application = mcp_django.asgi.get_asgi_application()
    client = Client(application)
    session = await client.open()
    sent: list[Any] = []
    received = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await application({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert await session.call("add", a=1, b=2) == {"result": 3}


async def test_a_project_that_cannot_start_says_so_at_startup() -> None:
    application = mcp_django.asgi.get_asgi_application()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup" if not sent else "lifespan.shutdown"}

    async def send(message: Any) -> None:
        sent.append(message)

    with override_settings(MCP_DJANGO_SESSION_STORE="no.such.Store"):
        await application({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "no.such.Store" in sent[0]["message"]


# The view among a project's other settings


async def test_the_view_works_with_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    session = await Client(application_now("view")).open()
    assert await session.call("count") == {"value": 1}


@pytest.mark.parametrize("header", ["1", None])
async def test_the_view_asks_for_no_csrf_token_and_no_login_page(settings: Settings, header: str | None) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    client = Client(application_now("view"))
    response = await client.handshake(headers={"Cookie": f"csrftoken={'x' * 32}", "X-CSRFToken": header})
    session = Session(client, str(response.header("mcp-session-id")), "2025-11-25")
    assert await session.call("add", a=1, b=2) == {"result": 3}
    assert (await session.delete()).status == 204


async def test_the_view_works_behind_a_middleware_that_reads_the_body(settings: Settings) -> None:
    settings.MIDDLEWARE = ["tests.protocol.middleware.reads_body", *settings.MIDDLEWARE]
    client = Client(application_now("view"))
    session = await client.open()
    big = json.dumps(session.tool("add", a=1, b=2)).encode().ljust(100_000)
    assert (await session.post_bytes(big)).result["structuredContent"] == {"result": 3}


async def test_the_view_works_behind_sync_middleware(settings: Settings) -> None:
    settings.MIDDLEWARE = ["tests.protocol.middleware.is_sync", *settings.MIDDLEWARE]
    client = Client(application_now("view"))
    session = await client.open()
    assert await session.call("count") == {"value": 1}
    assert (await session.call("facts"))["path"] == "/protocol/mcp"
