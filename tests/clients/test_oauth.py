"""The official Python client's way into the members' server, with a user at a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.exceptions import MCPError
from pydantic import AnyUrl

from tests.clients.browser import User, chromium
from tests.clients.loopback import Loopback, loopback
from tests.live.databases import Database, scratch_database
from tests.live.fixtures import serving
from tests.live.servers import ENTRIES, Server, manage, one_by_default
from tests.live.wire import Client as Wire

pytestmark = [pytest.mark.live, pytest.mark.clients, pytest.mark.anyio]

SECONDS = 60
MEMBERS = "/members/mcp"
PROFILE = {"OAUTH": "1", "DJANGO_SETTINGS_MODULE": "demo_project.settings"}
PASSWORD = "a-good-password"
MAKE_USER = f"""
from django.contrib.auth.models import Permission, User
User.objects.create_user("alice", password="{PASSWORD}").user_permissions.add(
    Permission.objects.get(codename="view_report", content_type__app_label="library"))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def database_with_oauth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The tables of the demo's profile with OAuth, and alice, who may read the report."""
    with scratch_database(tmp_path_factory.mktemp("oauth")) as scratch:
        manage(scratch.url, "migrate", "--verbosity", "0", **PROFILE)
        manage(scratch.url, "shell", "--verbosity", "0", "--command", MAKE_USER, **PROFILE)
        yield scratch


@pytest.fixture(params=one_by_default(ENTRIES))
def server(request: pytest.FixtureRequest, database_with_oauth: Database, tmp_path: Path) -> Iterator[Server]:
    with serving(database_with_oauth, tmp_path) as start:
        yield start(entry=request.param, **PROFILE)


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[User]:
    with chromium(tmp_path / "profile") as browser:
        yield User(browser, "alice", PASSWORD, tmp_path)


class Storage:
    """What a client keeps, in memory."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info

    @property
    def access_token(self) -> str:
        assert self.tokens is not None
        return self.tokens.access_token


class Desktop:
    """A client on alice's machine: it opens her browser, and hears of the outcome on the loopback interface."""

    def __init__(self, server: Server, user: User, callback: Loopback) -> None:
        self.server = server
        self.user = user
        self.callback = callback
        self.storage = Storage()
        self.asked = 0
        self.provider = OAuthClientProvider(
            server.url(MEMBERS),
            OAuthClientMetadata(
                client_name="Alice's desktop client",
                redirect_uris=[AnyUrl(callback.redirect_uri)],
                grant_types=["authorization_code", "refresh_token"],
                token_endpoint_auth_method="none",
            ),
            self.storage,
            self.open_browser,
            self.hear,
        )

    async def open_browser(self, url: str) -> None:
        self.asked += 1
        await asyncio.to_thread(self.user.allow, url)

    async def hear(self) -> AuthorizationCodeResult:
        told = await asyncio.to_thread(self.callback.answer)
        return AuthorizationCodeResult(code=told["code"], state=told["state"], iss=told["iss"])

    @asynccontextmanager
    async def connected(self, mode: Any) -> AsyncIterator[Client]:
        async with (
            httpx2.AsyncClient(auth=self.provider, timeout=SECONDS, trust_env=False) as http,
            Client(
                streamable_http_client(self.server.url(MEMBERS), http_client=http),
                mode=mode,
                read_timeout_seconds=SECONDS,
            ) as client,
        ):
            yield client

    def expire(self) -> None:
        """Have the next request find that the access token is too old."""
        self.provider.context.token_expiry_time = 1.0

    def wire(self) -> Wire:
        """The same client by hand, with the token of the moment."""
        return Wire(self.server, path=MEMBERS, token=self.storage.access_token)

    def revoke(self) -> None:
        """Give the access token back, as RFC 7009 has it."""
        assert self.storage.client is not None
        form = {"token": self.storage.access_token, "client_id": self.storage.client.client_id}
        assert self.server.http.post("/o/revoke_token/", data=form).status_code == 200


@pytest.fixture
def desktop(server: Server, alice: User) -> Iterator[Desktop]:
    with loopback() as callback:
        yield Desktop(server, alice, callback)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_client_that_knows_a_url_comes_in_stays_in_and_is_thrown_out(
    desktop: Desktop, alice: User, mode: str
) -> None:
    async with desktop.connected(mode) as client:
        # Refused, it has discovered, registered, and sent alice to log in and to allow it.
        assert await call(client, "whoami") == {"user": "alice"}
        assert (desktop.asked, alice.logins) == (1, 1)
        (page,) = alice.seen
        for said in ("Alice's desktop client", "alice", "See who you are", desktop.server.url(MEMBERS)):
            assert said in page
        assert "report" not in page

        # A tool needs more: it comes again and asks for that too.
        assert (await call(client, "staff_report"))["rows"] >= 0
        assert (desktop.asked, alice.logins) == (2, 1)
        assert "Read the report on loans" in alice.seen[1]
        assert "See who you are" in alice.seen[1]

        # Another token, and nobody was asked: the same principal, so the session goes on.
        first = desktop.storage.access_token
        before = await call(client, "count") if mode == "legacy" else None
        desktop.expire()
        assert await call(client, "whoami") == {"user": "alice"}
        assert desktop.storage.access_token != first
        assert desktop.asked == 2
        if before is not None:
            assert await call(client, "count") == {"value": before["value"] + 1}

        # Revoked: what is open ends, and the client is refused and sends alice to her browser again. A call in a
        # session has gone on meanwhile, and its client, who is the same principal as before, gets its result.
        slow = client.call_tool("slow_progress", {"steps": 4, "seconds": 2}, SECONDS, revoking(desktop))
        if mode == "legacy":
            assert (await slow).structured_content == {"steps": 4}
        else:
            with pytest.raises(MCPError):
                await slow
        assert await call(client, "whoami") == {"user": "alice"}
        assert (desktop.asked, alice.logins) == (3, 1)


def revoking(desktop: Desktop) -> Any:
    """Called at the first step: revokes the token, once."""

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        if progress == 1:
            await asyncio.to_thread(desktop.revoke)

    return progressed


async def test_the_stream_of_a_call_ends_with_its_token_and_the_next_request_is_401(desktop: Desktop) -> None:
    async with desktop.connected("legacy") as client:
        await call(client, "whoami")

    def by_hand() -> None:
        wire = desktop.wire().initialize()
        stream = wire.start("slow_progress", progress="p", steps=600, seconds=60)
        with stream:
            assert stream.next()["params"]["progress"] == 1
            desktop.revoke()
            last = stream.rest()
        assert all("result" not in message for message in last)
        refused = wire.post_call("whoami")
        assert refused.status_code == 401
        told = refused.headers["www-authenticate"]
        assert 'error="invalid_token"' in told
        assert f'"{desktop.server.url("/.well-known/oauth-protected-resource" + MEMBERS)}"' in told

    await asyncio.to_thread(by_hand)
