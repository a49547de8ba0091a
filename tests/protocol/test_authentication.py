"""Who may come in, asked at every request of either era, and before anything else is looked at but its form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client as Browser

from mcp_django.asgi import Application
from mcp_django.models import Session as Row
from tests.protocol.auth_servers import Grant
from tests.protocol.client import Client, Headers, Response, Session, case
from tests.protocol.entries import Entry, application_now
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage
from tests.protocol.stateless import Stateless

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LISTEN: Headers = {"Accept": "text/event-stream", "Content-Type": None}


@pytest.fixture(autouse=True)
def tokens(granted: dict[str, Grant]) -> None:
    granted["of-alice"] = Grant(client="alice")
    granted["of-alice-too"] = Grant(client="alice")
    granted["of-bob"] = Grant(client="bob")


@pytest.fixture
def nobody(application: Application) -> Client:
    """A client without a token, at the closed server."""
    return Client(application, "/closed/mcp")


@pytest.fixture
def stranger(application: Application) -> Client:
    """A client with a token that nobody knows, at the closed server."""
    return Client(application, "/closed/mcp", token="of-nobody")


@pytest.fixture
def alice(application: Application) -> Client:
    return Client(application, "/closed/mcp", token="of-alice")


def elsewhere(client: Client, path: str = "/opened/mcp", token: str | None = None) -> Client:
    """The same client at another server, perhaps with another token."""
    return Client(client.application, path, token=token)


async def all_requests(client: Client, session: str | None = None) -> AsyncIterator[tuple[str, Response]]:
    """The response to a request of each kind."""
    yield "initialize", await client.handshake(session=session)
    yield "a request", await client.post(client.message("ping"), session=session)
    yield "a notification", await client.post({"jsonrpc": "2.0", "method": "notifications/x"}, session=session)
    yield "a batch", await client.post([client.message("ping")], session=session)
    yield "no JSON", await client.request("POST", b"{", session=session)
    yield "a GET", await client.request("GET", session=session, headers=LISTEN)
    yield "a DELETE", await client.delete(session=session)
    modern = Stateless(client)
    yield "server/discover", await modern.request("server/discover")
    yield "tools/call", await modern.post(modern.tool("facts"))
    yield "subscriptions/listen", await modern.request("subscriptions/listen", {"notifications": {}})


def assert_unauthorized(response: Response, challenge: str) -> None:
    assert response.status == 401
    assert response.header("www-authenticate") == challenge
    assert response.error["code"] == -32600
    assert response.json["id"] is None
    assert response.header("mcp-session-id") is None


INVALID = 'Bearer error="invalid_token", error_description="The token is not known."'


class TestClosedServer:
    async def test_whoever_shows_no_credentials_gets_401_and_a_challenge_whatever_is_asked(
        self, nobody: Client, stage: Stage
    ) -> None:
        async for kind, response in all_requests(nobody):
            with case(kind):
                assert_unauthorized(response, "Bearer")
        assert stage.events == []
        assert not await Row.objects.aexists()

    async def test_whoever_shows_wrong_ones_is_told_so(self, stranger: Client) -> None:
        async for kind, response in all_requests(stranger):
            with case(kind):
                assert_unauthorized(response, INVALID)
        assert not await Row.objects.aexists()

    async def test_a_session_id_is_no_credential(self, alice: Client, nobody: Client, stranger: Client) -> None:
        session = await alice.open()
        for client, challenge in ((nobody, "Bearer"), (stranger, INVALID)):
            async for kind, response in all_requests(client, session.id):
                with case(kind):
                    assert_unauthorized(response, challenge)
        assert await session.call("count") == {"value": 1}

    async def test_a_401_tells_nothing_of_a_session(self, alice: Client, stranger: Client) -> None:
        session = await alice.open()
        known, unknown = [
            await stranger.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, session=id)
            for id in (session.id, "no-such-session")
        ]
        assert known == unknown

    async def test_credentials_are_looked_at_in_headers_only(self, nobody: Client) -> None:
        body = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
        for query in (b"access_token=of-alice", b"token=of-alice"):
            assert_unauthorized(await nobody.request("POST", body, query=query), "Bearer")

    async def test_every_request_is_asked_about_anew(
        self, alice: Client, granted: dict[str, Grant], stage: Stage
    ) -> None:
        session = await alice.open()
        before = stage.count("authenticate")
        for _time in range(3):
            assert (await session.request("ping")).result == {}
        assert stage.count("authenticate") == before + 3
        del granted["of-alice"]
        assert_unauthorized(await session.request("ping"), INVALID)
        assert_unauthorized(await session.delete(), INVALID)
        granted["of-alice"] = Grant(client="alice")
        assert (await session.request("ping")).result == {}

    async def test_a_page_of_an_allowed_origin_can_read_the_challenge(self, nobody: Client, settings: Settings) -> None:
        settings.MCP_DJANGO_ALLOWED_ORIGINS = ["https://app.example"]
        response = await nobody.handshake(headers={"Origin": "https://app.example"})
        assert response.status == 401
        assert response.header("access-control-allow-origin") == "https://app.example"
        assert "WWW-Authenticate" in str(response.header("access-control-expose-headers"))


class TestServerThatNamesNobody:
    async def test_is_open_while_the_project_is_under_development_and_says_what_to_set_afterwards(
        self, nobody: Client, settings: Settings
    ) -> None:
        settings.MCP_DJANGO_AUTHENTICATORS = []
        silent = elsewhere(nobody, "/unnamed/mcp")
        settings.DEBUG = True
        session = await silent.open()
        settings.DEBUG = False
        response = await session.request("ping")
        assert_unauthorized(response, "Bearer")
        assert "MCP_DJANGO_AUTHENTICATORS" in response.error["message"]


class TestOpenServer:
    async def test_whoever_shows_no_credentials_is_anonymous(self, nobody: Client) -> None:
        session = await elsewhere(nobody).open()
        assert (await session.call("facts"))["user"] == ""

    async def test_whoever_shows_wrong_ones_is_not(self, stranger: Client) -> None:
        stranger.path = "/opened/mcp"
        async for kind, response in all_requests(stranger):
            with case(kind):
                assert_unauthorized(response, INVALID)
        assert not await Row.objects.aexists()

    async def test_a_wrong_token_on_an_anonymous_session_is_401_and_the_session_lives(
        self, nobody: Client, stranger: Client
    ) -> None:
        session = await elsewhere(nobody).open()
        stranger.path = "/opened/mcp"
        assert_unauthorized(await session.of(stranger).request("ping"), INVALID)
        assert_unauthorized(await session.of(stranger).delete(), INVALID)
        assert (await session.request("ping")).result == {}


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def uses(session: Session) -> AsyncIterator[tuple[str, Response]]:
    """Each way to use a session; what asks for streams too."""
    yield "a request", await session.post(PING)
    yield "a call", await session.post({**PING, "method": "tools/call", "params": {"name": "count", "arguments": {}}})
    yield "a notification", await session.notify("notifications/initialized")
    yield "a cancel", await session.cancel(1)
    yield "an answer", await session.post({"jsonrpc": "2.0", "id": 1, "result": {}})
    yield "a GET", await session.get().response()
    yield "a resuming GET", await session.get("1").response()
    yield "a DELETE", await session.delete()


async def assert_foreign_is_unknown(session: Session, other: Client) -> None:
    """To another caller the session is not there, down to the last byte."""
    unknown = Session(other, "no-such-session", session.version)
    async for kind, response in uses(unknown):
        with case(kind):
            assert response.status == 404
    expected = [response async for _kind, response in uses(unknown)]
    found = [response async for _kind, response in uses(session.of(other))]
    assert found == expected
    assert (await session.request("ping")).result == {}


class TestOwners:
    @pytest.mark.parametrize("restoring", [False, True], ids=["live", "restoring"])
    async def test_a_session_is_its_principals_and_to_others_there_is_none(
        self, alice: Client, server_processes: Processes, restoring: bool
    ) -> None:
        bob = elsewhere(alice, alice.path, "of-bob")
        session = await alice.open()
        if restoring:
            await server_processes.another()
        await assert_foreign_is_unknown(session, bob)

    async def test_a_newer_token_of_the_same_principal_goes_on_with_its_session(self, alice: Client) -> None:
        session = await alice.open()
        assert await session.call("count") == {"value": 1}
        assert await session.of(elsewhere(alice, alice.path, "of-alice-too")).call("count") == {"value": 2}

    @pytest.mark.parametrize("restoring", [False, True], ids=["live", "restoring"])
    async def test_an_anonymous_session_is_not_adopted_by_a_later_token(
        self, nobody: Client, server_processes: Processes, restoring: bool
    ) -> None:
        session = await elsewhere(nobody).open()
        if restoring:
            await server_processes.another()
        await assert_foreign_is_unknown(session, elsewhere(nobody, token="of-alice"))

    @pytest.mark.parametrize("restoring", [False, True], ids=["live", "restoring"])
    async def test_a_session_that_was_opened_with_a_token_is_not_there_without_one(
        self, nobody: Client, server_processes: Processes, restoring: bool
    ) -> None:
        session = await elsewhere(nobody, token="of-alice").open()
        if restoring:
            await server_processes.another()
        await assert_foreign_is_unknown(session, elsewhere(nobody))

    async def test_two_clients_of_one_user_are_two_owners(self, alice: Client, granted: dict[str, Grant]) -> None:
        await User.objects.acreate(username="alice")
        granted["first"] = Grant("alice", "one")
        granted["refreshed"] = Grant("alice", "one")
        granted["second"] = Grant("alice", "two")
        granted["own"] = Grant("alice")
        session = await elsewhere(alice, alice.path, "first").open()
        assert await session.call("count") == {"value": 1}
        assert await session.of(elsewhere(alice, alice.path, "refreshed")).call("count") == {"value": 2}
        for token in ("second", "own"):
            await assert_foreign_is_unknown(session, elsewhere(alice, alice.path, token))

    async def test_a_session_of_one_server_is_none_of_anothers(self, alice: Client) -> None:
        session = await alice.open()
        await assert_foreign_is_unknown(session, elsewhere(alice, "/opened/mcp", "of-alice"))


class TestBeforeAuthentication:
    """What is wrong with a request as such is said without asking whose it is."""

    async def test_options_is_answered(self, nobody: Client, stranger: Client, stage: Stage) -> None:
        for client in (nobody, stranger):
            response = await client.request("OPTIONS")
            assert (response.status, response.body) == (204, b"")
        assert "authenticate" not in stage.names()

    @pytest.mark.parametrize(
        ("status", "method", "headers"),
        [
            (415, "POST", {"Content-Type": "text/plain"}),
            (406, "POST", {"Accept": "text/html"}),
            (406, "GET", {"Accept": "application/json", "Content-Type": None}),
            (413, "POST", {}),
            (431, "POST", {"X-Large": "x" * 70_000}),
            (431, "GET", {"X-Large": "x" * 70_000}),
            *((400, method, {"Host": "evil.example"}) for method in ("POST", "GET", "DELETE", "OPTIONS")),
            *((403, method, {"Origin": "https://evil.example"}) for method in ("POST", "GET", "DELETE", "OPTIONS")),
            *((403, method, {"Origin": "null"}) for method in ("POST", "GET", "DELETE", "OPTIONS")),
        ],
    )
    async def test_a_request_of_a_wrong_form_is_refused(
        self,
        alice: Client,
        nobody: Client,
        entry: Entry,
        stage: Stage,
        settings: Settings,
        status: int,
        method: str,
        headers: Headers,
    ) -> None:
        settings.MCP_DJANGO_MAX_BODY_BYTES = 1000
        body = b" " * 2000 if status == 413 else b"{}"
        for client in (alice, nobody):
            response = await client.request(method, body if method == "POST" else b"", headers=headers)
            assert response.status == status
            # Of a wrong host it is Django's own middleware that says so, if it runs.
            assert (status == 400 and entry == "view") or response.error["code"] == -32600
            assert response.header("www-authenticate") is None
        assert "authenticate" not in stage.names()

    async def test_the_texts_name_the_setting_to_change(self, nobody: Client, entry: Entry, settings: Settings) -> None:
        settings.MIDDLEWARE = []
        if entry == "view":
            nobody.application = application_now(entry)
        for headers, setting in (
            ({"Host": "evil.example"}, "ALLOWED_HOSTS"),
            ({"Origin": "https://evil.example"}, "MCP_DJANGO_ALLOWED_ORIGINS"),
            ({"Origin": "https://evil.example"}, "CSRF_TRUSTED_ORIGINS"),
        ):
            for response in (await nobody.handshake(headers=headers), await nobody.delete(headers=headers)):
                assert setting in response.error["message"]

    @pytest.mark.parametrize(
        ("host", "origin"), [("[::1]:8000", "http://[::1]:8000"), ("localhost:8000", "http://localhost:8000")]
    )
    async def test_an_origin_of_the_same_host_and_port_passes_and_none_does_too(
        self, alice: Client, host: str, origin: str
    ) -> None:
        for headers in ({"Host": host, "Origin": origin}, {"Host": host}):
            assert (await alice.handshake(headers=headers)).status == 200
        wrong = origin.replace("8000", "9000")
        assert (await alice.handshake(headers={"Host": host, "Origin": wrong})).status == 403


class TestScopesOfTheServer:
    @pytest.fixture
    def limited(self, alice: Client, granted: dict[str, Grant]) -> Client:
        """A client whose token lacks what the server wants of everybody."""
        granted["limited"] = Grant(client="alice", scopes=frozenset({"read"}))
        return elsewhere(alice, "/scoped/mcp", "limited")

    async def test_whoever_lacks_them_gets_403_and_is_told_which_whatever_is_asked(self, limited: Client) -> None:
        async for kind, response in all_requests(limited):
            with case(kind):
                assert response.status == 403
                assert response.header("www-authenticate") == (
                    'Bearer error="insufficient_scope", error_description="This needs the scopes enter, which the '
                    'credentials do not have.", scope="enter read"'
                )
                assert "enter" in response.error["message"]

    async def test_whoever_has_them_or_is_not_limited_comes_in(
        self, limited: Client, granted: dict[str, Grant]
    ) -> None:
        granted["more"] = Grant(client="alice", scopes=frozenset({"enter", "read"}))
        for token in ("more", "of-alice"):
            session = await elsewhere(limited, limited.path, token).open()
            assert (await session.request("ping")).result == {}

    async def test_whoever_shows_nothing_is_told_them_too(self, limited: Client) -> None:
        assert_unauthorized(await elsewhere(limited, limited.path).handshake(), 'Bearer scope="enter"')


class TestDatabaseAway:
    async def test_during_authentication_it_is_a_503_and_never_a_401_or_404(self, alice: Client, stage: Stage) -> None:
        session = await alice.open()
        stage.fail("authenticate", OperationalError("server closed the connection unexpectedly"), times=100)
        async for kind, response in all_requests(alice, session.id):
            with case(kind):
                assert response.status == 503
                assert int(str(response.header("retry-after"))) >= 1
                assert response.header("www-authenticate") is None
                assert "unexpectedly" not in response.body.decode()
        stage.reset()
        assert (await session.request("ping")).result == {}

    async def test_an_authenticator_that_fails_otherwise_is_a_500_that_says_nothing(
        self, alice: Client, stage: Stage, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage.fail("authenticate", LookupError("the secret directory is away"))
        response = await alice.handshake()
        assert response.status == 500
        assert "secret" not in response.body.decode()
        assert "the secret directory is away" in caplog.text


class TestDjangoLogin:
    """The site's own users, in the browser in which they are logged in."""

    @pytest.fixture
    async def cookie(self) -> str:
        @sync_to_async
        def log_in() -> str:
            browser = Browser()
            browser.force_login(User.objects.create_user("alice"))
            return browser.cookies[django_settings.SESSION_COOKIE_NAME].value

        return f"{django_settings.SESSION_COOKIE_NAME}={await log_in()}"

    @pytest.fixture
    def site(self, application: Application) -> Client:
        return Client(application, "/logins/mcp")

    async def session(self, site: Client, headers: Headers) -> Session:
        opened = await site.handshake(headers=headers)
        assert opened.status == 200
        return Session(site, str(opened.header("mcp-session-id")), "2025-11-25")

    async def user(self, site: Client, headers: Headers) -> set[str]:
        """Who calls, as handlers of either era and kind see it."""
        session, modern = await self.session(site, headers), Stateless(site)
        found: set[str] = set()
        for tool in ("who", "who_in_thread"):
            for response in (
                await session.post(session.tool(tool), headers),
                await modern.post(modern.tool(tool), headers),
            ):
                found |= set(response.result["structuredContent"]["value"])
        return found

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "http://testserver"},
            {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Host": "localhost:8000", "Origin": "http://localhost:8000"},
        ],
        ids=str,
    )
    async def test_counts_for_pages_of_the_same_origin_and_where_no_page_is_involved(
        self, site: Client, cookie: str, headers: Headers
    ) -> None:
        assert await self.user(site, {"Cookie": cookie, **headers}) == {"alice"}

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://app.example"},
            {"Origin": "https://trusted.example", "Sec-Fetch-Site": "same-origin"},
            {"Origin": "http://testserver:8000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": ["none", "cross-site"]},
            {"Sec-Fetch-Site": ""},
        ],
        ids=str,
    )
    async def test_does_not_count_for_other_pages_even_if_they_may_call(
        self, site: Client, cookie: str, settings: Settings, headers: Headers
    ) -> None:
        settings.MCP_DJANGO_ALLOWED_ORIGINS = ["https://app.example", "http://testserver:8000"]
        settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example"]
        assert await self.user(site, {"Cookie": cookie, **headers}) == {""}

    async def test_of_an_origin_that_may_not_call_is_refused_as_ever(self, site: Client, cookie: str) -> None:
        response = await site.handshake(headers={"Cookie": cookie, "Origin": "https://evil.example"})
        assert response.status == 403

    async def test_a_page_that_may_call_cannot_use_the_session_of_the_login(
        self, site: Client, cookie: str, settings: Settings
    ) -> None:
        settings.MCP_DJANGO_ALLOWED_ORIGINS = ["https://app.example"]
        session = await self.session(site, {"Cookie": cookie})
        assert (await session.post(PING, {"Cookie": cookie, "Origin": "https://app.example"})).status == 404
        assert (await session.post(PING, {"Cookie": cookie})).result == {}

    async def test_of_a_user_who_is_no_longer_active_counts_no_more(self, site: Client, cookie: str) -> None:
        session = await self.session(site, {"Cookie": cookie})
        await User.objects.filter(username="alice").aupdate(is_active=False)
        assert (await session.post(PING, {"Cookie": cookie})).status == 404

    async def test_is_the_only_way_into_a_server_that_has_no_other(self, site: Client, cookie: str) -> None:
        only = elsewhere(site, "/logins-only/mcp")
        assert await self.user(only, {"Cookie": cookie}) == {"alice"}
        for headers in ({}, {"Cookie": "sessionid=forged"}, {"Cookie": cookie, "Sec-Fetch-Site": "cross-site"}):
            response = await only.handshake(headers=headers)
            assert response.status == 401
            assert response.header("www-authenticate") == 'Cookie realm="MCP"'
