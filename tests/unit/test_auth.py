"""Who may come in: principals, authenticators, and what those are told who may not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from mcp_django import MCPServer
from mcp_django.auth import (
    ANONYMOUS,
    MAX_KEY_LENGTH,
    AuthenticationFailed,
    Authenticator,
    Credentials,
    DjangoLogin,
    Principal,
    Public,
    default_authenticators,
    identify,
    made,
    public,
)
from mcp_django.auth.credentials import challenges, insufficient_scope, metadata_of, parameters, resource_url
from mcp_django.exceptions import StoreUnavailable
from mcp_django.http import HTTPRefusal, Request
from mcp_django.testing import inline
from tests.unit.requests_by_hand import request as http


class Knows(Authenticator):
    """Recognises whoever says a word in a header; whoever says "wrong" is refused."""

    def __init__(self, word: str, asked: list[str] | None = None, principal: Principal | None = None) -> None:
        self.word = word
        self.asked = asked if asked is not None else []
        self.principal = principal or Principal(f"word:{word}")

    def concerns(self, headers: dict[str, str]) -> bool:
        return "x-word" in headers

    async def recognise(self, request: Request, server: str) -> Principal | None:
        self.asked.append(self.word)
        said = request.headers.get("x-word")
        if said == "wrong":
            raise AuthenticationFailed(f"{self.word} does not know that word.")
        return self.principal if said == self.word else None


def request(**headers: str) -> HttpRequest:
    return RequestFactory().post("/mcp", headers=headers)


numbers = itertools.count()


def server(*authenticators: Any, **options: Any) -> MCPServer:
    return MCPServer(f"auth test {next(numbers)}", authenticators=authenticators, **options)


async def refused(server: MCPServer, request: Request) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of what a request is refused with."""
    with pytest.raises(HTTPRefusal) as caught:
        await identify(server, request)
    response = caught.value.response
    return response.status, dict(response.headers), response.body.decode()


@pytest.mark.anyio
class TestIdentify:
    async def test_the_first_that_recognises_the_request_says_whose_it_is(self) -> None:
        asked: list[str] = []
        both = server(Knows("open", asked), Knows("sesame", asked), Knows("open", asked))
        found = await identify(both, http(("X-Word", "sesame")))
        assert found.principal == Principal("word:sesame")
        assert found.authenticator is both.authenticators[1]
        assert found.server == both.name
        assert asked == ["open", "sesame"]

    async def test_whom_nobody_recognises_is_anonymous_where_everybody_may_come_in(self) -> None:
        found = await identify(server(Knows("open"), public), http(("X-Word", "closed")))
        assert found.principal is ANONYMOUS
        assert found.authenticator is None
        assert (await identify(server(public), http())).principal is ANONYMOUS

    async def test_whom_nobody_recognises_is_refused_elsewhere(self) -> None:
        for headers in ([], [("X-Word", "closed")]):
            status, challenge, text = await refused(server(Knows("open")), http(*headers))
            assert status == 401
            assert challenge["WWW-Authenticate"] == "Bearer"
            assert "Authentication is required" in text

    async def test_an_authenticator_that_a_request_does_not_concern_is_not_asked(self) -> None:
        asked: list[str] = []
        await identify(server(Knows("open", asked), public), http())
        assert asked == []

    async def test_wrong_credentials_are_never_taken_for_none(self) -> None:
        status, headers, text = await refused(server(Knows("open"), public), http(("X-Word", "wrong")))
        assert status == 401
        assert headers["WWW-Authenticate"] == (
            'Bearer error="invalid_token", error_description="open does not know that word."'
        )
        assert "open does not know that word." in text

    async def test_what_one_refuses_another_may_recognise(self) -> None:
        wrong = Knows("wrong")
        wrong.recognise = lambda request, server: recognised(Principal("the other"))  # type: ignore[method-assign]
        found = await identify(server(Knows("open"), wrong), http(("X-Word", "wrong")))
        assert found.principal.key == "the other"

    async def test_the_first_refusal_is_told(self) -> None:
        _status, _headers, text = await refused(server(Knows("one"), Knows("two")), http(("X-Word", "wrong")))
        assert "one does not know" in text

    async def test_a_refusal_without_a_text_says_something(self) -> None:
        silent = Knows("open")
        silent.recognise = lambda request, server: failing(AuthenticationFailed())  # type: ignore[method-assign]
        _status, headers, text = await refused(server(silent), http(("X-Word", "x")))
        assert "not valid here" in text
        assert "not valid here" in headers["WWW-Authenticate"]

    async def test_an_error_of_an_authenticator_does_not_let_anybody_in(self) -> None:
        broken = Knows("open")
        broken.recognise = lambda request, server: failing(LookupError("away"))  # type: ignore[method-assign]
        with pytest.raises(LookupError):
            await identify(server(broken, Knows("open"), public), http(("X-Word", "open")))

    async def test_what_a_server_wants_of_everybody_is_not_wanted_of_credentials_without_scopes(self) -> None:
        limited = Principal("limited", scopes=frozenset({"read"}))
        wants = server(Knows("full"), Knows("limited", principal=limited), public, scopes=["read", "write"])
        assert (await identify(wants, http(("X-Word", "full")))).principal.scopes is None
        status, headers, text = await refused(wants, http(("X-Word", "limited")))
        assert status == 403
        assert headers["WWW-Authenticate"] == (
            'Bearer error="insufficient_scope", '
            'error_description="This needs the scopes write, which the credentials do not have.", scope="read write"'
        )
        assert "write" in text


async def recognised(principal: Principal | None) -> Principal | None:
    return principal


async def failing(error: Exception) -> Principal | None:
    raise error


@pytest.mark.anyio
class TestStillHolding:
    async def test_the_same_request_is_asked_about_again_and_nothing_of_the_first_time_is_kept(self) -> None:
        seen: list[HttpRequest] = []

        class Looking(Knows):
            async def recognise(self, request: Request, server: str) -> Principal | None:
                seen.append(request.django)
                request.django.user = AnonymousUser()
                request.django.session = None  # type: ignore[assignment]
                return await super().recognise(request, server)

        credentials = await identify(server(Looking("open")), http(("X-Word", "open")))
        assert await credentials.still_hold()
        first, second = seen
        assert first is not second
        assert first.path == second.path

    @pytest.mark.parametrize(
        ("later", "hold"),
        [
            (Principal("a", scopes=frozenset({"read", "write"})), True),
            (Principal("a", scopes=frozenset({"read", "write", "more"})), True),
            (Principal("a"), True),
            (Principal("a", scopes=frozenset({"read"})), False),
            (Principal("b", scopes=frozenset({"read", "write"})), False),
            (None, False),
        ],
    )
    async def test_they_hold_if_they_are_the_same_principals_and_have_no_fewer_scopes(
        self, later: Principal | None, hold: bool
    ) -> None:
        knows = Knows("open", principal=Principal("a", scopes=frozenset({"read", "write"})))
        credentials = await identify(server(knows), http(("X-Word", "open")))
        knows.recognise = lambda request, server: recognised(later)  # type: ignore[method-assign]
        assert await credentials.still_hold() is hold

    async def test_those_that_are_refused_do_not_hold_and_a_database_that_is_away_does_not_say(self) -> None:
        knows = Knows("open")
        credentials = await identify(server(knows), http(("X-Word", "open")))
        knows.recognise = lambda request, server: failing(AuthenticationFailed("revoked"))  # type: ignore[method-assign]
        assert not await credentials.still_hold()
        knows.recognise = lambda request, server: failing(StoreUnavailable("away"))  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await credentials.still_hold()

    async def test_nothing_can_be_taken_from_anonymous_callers(self) -> None:
        assert await Credentials(ANONYMOUS, http(), "a server").still_hold()


class TestAfresh:
    def test_a_request_keeps_all_but_what_was_found_out_about_its_sender(self) -> None:
        middleware_was_here = RequestFactory().post("/mcp?x=1", headers={"cookie": "a=b"})
        middleware_was_here.user = AnonymousUser()
        middleware_was_here.session = {}  # type: ignore[assignment]
        once = Request("POST", [(b"x-word", b"open")], b"body", lambda body: middleware_was_here)
        assert once.django is middleware_was_here
        again = once.afresh()
        assert again.headers == once.headers
        assert again.body == once.body
        assert again.django is again.django
        assert again.django is not middleware_was_here
        assert again.django.COOKIES == {"a": "b"}
        assert not {"user", "session"} & set(vars(again.django))
        assert middleware_was_here.user == AnonymousUser()
        assert hasattr(once.afresh().afresh().django, "META")


class TestPublic:
    @pytest.mark.parametrize("debug", [True, False])
    def test_a_server_that_says_so_is_and_one_with_authenticators_alone_is_not(self, debug: bool) -> None:
        with override_settings(DEBUG=debug):
            assert server(public).is_public
            assert server(Knows("open"), Public()).is_public
            assert server("mcp_django.auth.public").is_public
            assert not server(Knows("open")).is_public

    def test_one_that_says_nothing_is_open_under_debug_only(self) -> None:
        with override_settings(MCP_DJANGO_AUTHENTICATORS=[]):
            for silent in (server(), MCPServer("default of the auth tests")):
                with override_settings(DEBUG=True):
                    assert silent.is_public
                with override_settings(DEBUG=False):
                    assert not silent.is_public

    @pytest.mark.anyio
    async def test_one_that_says_nothing_refuses_everybody_in_production_and_names_the_setting(self) -> None:
        with override_settings(DEBUG=False):
            status, headers, text = await refused(server(), http())
        assert status == 401
        assert "MCP_DJANGO_AUTHENTICATORS" in text
        assert "mcp_django.auth.public" in text
        assert headers["WWW-Authenticate"] == "Bearer"


class Cookie(Authenticator):
    scheme = "Cookie"

    def concerns(self, headers: dict[str, str]) -> bool:
        return False


class Server(Authenticator):
    """Tells of an authorization server."""

    def __init__(self, *servers: str) -> None:
        self.servers = list(servers)

    def concerns(self, headers: dict[str, str]) -> bool:
        return False

    def metadata(self, request: HttpRequest) -> dict[str, Any]:
        return {"authorization_servers": self.servers, "scopes_supported": ["read"], "resource_name": "Books"}


# RFC 9110, 11.6.1: a challenge as it is parsed.
CHALLENGE = re.compile(r'[\w-]+( [\w-]+="([ !#-\[\]-~]|\\["\\])*"(, [\w-]+="([ !#-\[\]-~]|\\["\\])*")*)?')


class TestChallenges:
    def of(self, *authenticators: Any, error: dict[str, str] | None = None, **options: Any) -> list[str]:
        return challenges(server(*authenticators, **options), http(), error or {})

    def test_there_is_one_for_each_scheme_and_always_one(self) -> None:
        assert self.of(Knows("open")) == ["Bearer"]
        assert self.of(Knows("open"), Knows("sesame"), public) == ["Bearer"]
        assert self.of(Cookie()) == ['Cookie realm="MCP"']
        assert self.of(Cookie(), Knows("open")) == ['Cookie realm="MCP"', "Bearer"]
        assert self.of() == ["Bearer"]

    def test_the_servers_scopes_are_told(self) -> None:
        assert self.of(Knows("open"), scopes=["write", "read"]) == ['Bearer scope="read write"']
        own = self.of(Knows("open"), scopes=["write"], error={"scope": "read write"})
        assert own == ['Bearer scope="read write"']

    def test_what_breaks_out_of_a_header_is_taken_out(self) -> None:
        text = 'a "quoted" \\ text\r\nSet-Cookie: stolen=1\x00\x7fé€'
        (challenge,) = self.of(Knows("open"), error={"error_description": text})
        assert challenge == 'Bearer error_description="a \\"quoted\\" \\\\ text??Set-Cookie: stolen=1????"'

    @given(st.text(), st.text())
    def test_any_text_makes_one_well_formed_challenge(self, one: str, two: str) -> None:
        challenge = f"Bearer {parameters({'error': one, 'error_description': two})}"
        assert CHALLENGE.fullmatch(challenge)

    def test_a_client_that_steps_up_is_told_the_scopes_that_it_has_as_well(self) -> None:
        principal = Principal("a", scopes=frozenset({"read"}), can_step_up=True)
        refusal = insufficient_scope(server(Knows("open")), http(), principal, frozenset({"write"}))
        assert refusal.response.status == 403
        assert 'scope="read write"' in dict(refusal.response.headers)["WWW-Authenticate"]

    def test_metadata_are_those_of_all_authenticators_and_none_if_they_have_none(self) -> None:
        several = server(Server("https://a.example"), Server("https://a.example", "https://b.example"), Knows("x"))
        assert metadata_of(several, request()) == {
            "authorization_servers": ["https://a.example", "https://b.example"],
            "scopes_supported": ["read"],
            "resource_name": "Books",
        }
        assert metadata_of(server(Knows("x"), public), request()) is None

    def test_an_endpoint_is_named_by_one_url(self) -> None:
        for path in ("/members/mcp", "/members/mcp/"):
            assert resource_url(RequestFactory().post(path)) == "http://testserver/members/mcp"
        assert resource_url(request(), "other/mcp") == "http://testserver/other/mcp"
        with override_settings(FORCE_SCRIPT_NAME="/app"):
            assert resource_url(request(), "mcp") == "http://testserver/app/mcp"


class TestPrincipal:
    def test_the_anonymous_one_has_no_key_and_djangos_anonymous_user(self) -> None:
        assert ANONYMOUS.key == ""
        assert ANONYMOUS.lacks(frozenset({"read"})) == {"read"}
        assert isinstance(ANONYMOUS.user_or_anonymous, AnonymousUser)

    def test_one_with_a_user_gives_that_user(self) -> None:
        user = get_user_model()(username="ann")
        assert Principal("user:1", user).user_or_anonymous is user

    def test_a_key_is_of_a_user_of_a_users_client_or_of_a_client(self) -> None:
        assert Principal.key_of(7) == "user:7"
        assert Principal.key_of(0) == "user:0"
        assert Principal.key_of(7, "abc") == "user:7 client:abc"
        assert Principal.key_of(client="https://app.example/client.json") == "client:https://app.example/client.json"
        with pytest.raises(ValueError, match="needs a user or a client"):
            Principal.key_of()

    def test_no_two_owners_have_one_key(self) -> None:
        pks = [
            "1",
            "1 client:a",
            "1%20client%3Aa",
            "client:a",
            "user:1",
            "",
            " ",
            "Bob",
            "bob",
            "bob ",
            "\xe9",
            "e\u0301",
        ]
        clients = ["", "a", "a b", "a%20b", "A", "user:1", "1 client:a"]
        owners = [(pk, client) for pk in [*pks, None] for client in clients if pk is not None or client]
        keys = [Principal.key_of(pk, client) for pk, client in owners]
        assert len(set(keys)) == len(owners)
        # Printable, so that no collation and no log makes two of them one.
        assert all(key.isascii() and key.isprintable() for key in keys)

    def test_what_is_too_long_for_a_key_is_known_by_its_digest(self) -> None:
        limit = MAX_KEY_LENGTH - len("user:")
        assert Principal.key_of("x" * limit) == "user:" + "x" * limit
        long, other = Principal.key_of("x" * (limit + 1)), Principal.key_of("x" * (limit + 2))
        assert re.fullmatch("sha256:[0-9a-f]{64}", long)
        assert long != other
        assert Principal.key_of("x" * 1000, "client") not in (long, other)

    def test_a_key_of_ones_own_has_its_limit_too(self) -> None:
        assert len(Principal("x" * MAX_KEY_LENGTH).key) == 255
        with pytest.raises(ValueError, match="at most 255 characters, got 256"):
            Principal("x" * (MAX_KEY_LENGTH + 1))

    def test_it_lacks_what_its_scopes_do_not_hold_and_nothing_if_it_is_not_limited_by_scopes(self) -> None:
        wanted = frozenset({"read", "write"})
        assert Principal("a").lacks(wanted) == frozenset()
        assert Principal("a", scopes=frozenset()).lacks(wanted) == wanted
        assert Principal("a", scopes=frozenset({"read"})).lacks(wanted) == {"write"}

    def test_as_it_is_it_has_no_hope_of_more_scopes(self) -> None:
        hopeful = Principal("a", client="c", scopes=frozenset({"read"}), can_step_up=True)
        assert hopeful.as_it_is == Principal("a", client="c", scopes=frozenset({"read"}))
        assert ANONYMOUS.as_it_is is ANONYMOUS


class TestAuthenticator:
    def test_a_subclass_that_forgot_a_method_is_told_which(self) -> None:
        class Forgetful(Authenticator): ...

        with pytest.raises(NotImplementedError, match=r"Forgetful must define concerns\(headers\)"):
            Forgetful().concerns({})
        with pytest.raises(NotImplementedError, match=r"Forgetful must define authenticate\(request\)"):
            Forgetful().authenticate(request())


@pytest.mark.anyio
class TestRecognise:
    @pytest.fixture(autouse=True)
    def in_this_thread(self) -> Any:
        with inline():
            yield

    def of(self, authenticate: Callable[[HttpRequest], Principal | None]) -> Authenticator:
        class Made(Authenticator):
            def concerns(self, headers: dict[str, str]) -> bool:
                return True

            def authenticate(self, request: HttpRequest) -> Principal | None:
                return authenticate(request)

        return Made()

    async def test_the_sync_method_is_asked_with_djangos_request(self) -> None:
        asked: list[HttpRequest] = []

        def authenticate(request: HttpRequest) -> Principal:
            asked.append(request)
            return Principal("a")

        sent = http()
        assert await self.of(authenticate).recognise(sent, "a server") == Principal("a")
        assert asked == [sent.django]

    async def test_a_database_that_fails_is_not_an_answer(self) -> None:
        def authenticate(request: HttpRequest) -> Principal:
            raise OperationalError("no connection to db.internal")

        with pytest.raises(StoreUnavailable) as caught:
            await self.of(authenticate).recognise(http(), "a server")
        assert "db.internal" not in str(caught.value)


class TestMade:
    def test_an_instance_a_class_and_the_path_to_either_make_one(self) -> None:
        instance = DjangoLogin()
        assert made(instance) is instance
        assert isinstance(made(DjangoLogin), DjangoLogin)
        assert isinstance(made("mcp_django.auth.DjangoLogin"), DjangoLogin)
        assert made("mcp_django.auth.public") is public

    def test_a_path_that_leads_nowhere_is_told_with_its_reason(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"'mcp_django.auth.Nobody' cannot be imported: .*Nobody"):
            made("mcp_django.auth.Nobody")

    @pytest.mark.parametrize("wrong", [None, 7, object, "mcp_django.auth.identify", Principal])
    def test_anything_else_is_told_what_to_name(self, wrong: object) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"is no authenticator: name a subclass of .*auth\.public"):
            made(wrong)

    def test_a_server_makes_those_that_it_is_given_at_first_use(self) -> None:
        lazy = server("no.such.module")
        with pytest.raises(ImproperlyConfigured, match=r"no\.such\.module"):
            lazy.authenticators  # noqa: B018 - made at first access
        both = server(DjangoLogin, "mcp_django.auth.public")
        assert both.authenticators is both.authenticators
        assert [type(one) for one in both.authenticators] == [DjangoLogin, Public]


class TestDefault:
    def test_those_that_the_setting_names_are_made_once(self) -> None:
        with override_settings(MCP_DJANGO_AUTHENTICATORS=["mcp_django.auth.DjangoLogin", public]):
            login, everybody = default_authenticators()
            assert isinstance(login, DjangoLogin)
            assert everybody is public
            assert default_authenticators() is default_authenticators()
            assert MCPServer("default of the auth tests").authenticators is default_authenticators()
            assert server().authenticators == ()

    def test_the_setting_is_read_again(self) -> None:
        with override_settings(MCP_DJANGO_AUTHENTICATORS=[]):
            assert default_authenticators() == ()
        with override_settings(MCP_DJANGO_AUTHENTICATORS=["mcp_django.auth.public"]):
            assert default_authenticators() == (public,)


def login(user: Any) -> str:
    """The cookie of a browser in which this user is logged in."""
    browser = Client()
    browser.force_login(user)
    return browser.cookies[settings.SESSION_COOKIE_NAME].value


def with_cookie(value: str) -> HttpRequest:
    return request(cookie=f"csrftoken=x; {settings.SESSION_COOKIE_NAME}={value}; other=y")


@pytest.mark.django_db
class TestDjangoLogin:
    @pytest.fixture
    def user(self) -> Any:
        return get_user_model().objects.create_user("ann")

    def test_a_request_without_the_cookie_does_not_concern_it(self) -> None:
        assert not DjangoLogin().concerns({})
        assert not DjangoLogin().concerns({"cookie": "csrftoken=x"})
        assert DjangoLogin().concerns({"cookie": f"csrftoken=x; {settings.SESSION_COOKIE_NAME}=y"})

    def test_whoever_is_logged_in_is_known_without_any_middleware(self, user: Any) -> None:
        principal = DjangoLogin().authenticate(with_cookie(login(user)))
        assert principal == Principal(f"user:{user.pk}", user)

    def test_whoever_is_logged_in_is_known_behind_djangos_middleware(self, user: Any) -> None:
        behind = with_cookie(login(user))
        SessionMiddleware(lambda request: HttpResponse()).process_request(behind)
        before = behind.session
        principal = DjangoLogin().authenticate(behind)
        assert principal is not None
        assert principal.user == user
        assert behind.session is before

    def test_two_logins_of_one_user_are_one_principal_and_two_users_are_two(self, user: Any) -> None:
        other = get_user_model().objects.create_user("bob")
        keys = [DjangoLogin().authenticate(with_cookie(login(who))) for who in (user, user, other)]
        assert keys[0] == keys[1] != keys[2]

    @pytest.mark.parametrize("cookie", ["", "forged", "x" * 32, "é", "'; DROP TABLE django_session --"])
    def test_a_forged_cookie_is_nobody(self, cookie: str) -> None:
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None

    def test_a_session_without_a_login_is_nobody(self, user: Any) -> None:
        browser = Client()
        browser.force_login(user)
        cookie = browser.cookies[settings.SESSION_COOKIE_NAME].value
        session = browser.session
        for key in list(session.keys()):
            del session[key]
        session.save()
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None

    def test_a_login_that_ended_is_nobody(self, user: Any) -> None:
        browser = Client()
        browser.force_login(user)
        cookie = browser.cookies[settings.SESSION_COOKIE_NAME].value
        browser.logout()
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None

    def test_a_user_who_was_deactivated_or_deleted_is_nobody(self, user: Any) -> None:
        cookie = login(user)
        user.is_active = False
        user.save()
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None
        user.delete()
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None

    def test_a_user_whose_password_changed_is_nobody(self, user: Any) -> None:
        cookie = login(user)
        user.set_password("another")
        user.save()
        assert DjangoLogin().authenticate(with_cookie(cookie)) is None

    def test_a_login_from_before_the_secret_key_changed_stays_one(self, user: Any) -> None:
        cookie = login(user)
        with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            for _time in range(2):
                assert DjangoLogin().authenticate(with_cookie(cookie)) == Principal(f"user:{user.pk}", user)

    @override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    def test_logins_are_read_from_where_the_project_keeps_them(self, user: Any) -> None:
        principal = DjangoLogin().authenticate(with_cookie(login(user)))
        assert principal is not None
        assert principal.user == user

    @override_settings(SESSION_COOKIE_NAME="own")
    def test_the_cookies_name_is_the_projects(self, user: Any) -> None:
        assert DjangoLogin().concerns({"cookie": "own=1"})
        assert DjangoLogin().authenticate(with_cookie(login(user))) is not None
