"""Callers as Django REST framework's authentication classes recognise them."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.test import RequestFactory
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token

from mcp_django import MCPServer
from mcp_django.auth import AuthenticationFailed, Principal, made
from mcp_django.auth.credentials import challenges
from mcp_django.auth.rest_framework import RESTFramework
from mcp_django.http import Request
from mcp_django.testing import ClientError, connect

TOKENS = "rest_framework.authentication.TokenAuthentication"
BASIC = "rest_framework.authentication.BasicAuthentication"


class NamedBySettings(RESTFramework):
    authentication_class = TokenAuthentication


def request(authorization: str | None = None) -> HttpRequest:
    headers = {} if authorization is None else {"Authorization": authorization}
    return RequestFactory().post("/mcp", headers=headers)


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="sesame")


def key_of(user: User) -> str:
    return str(Token.objects.create(user=user).key)


@pytest.mark.parametrize("authenticator", [RESTFramework(TOKENS), NamedBySettings()])
def test_a_token_of_the_framework_speaks_for_its_user(alice: User, authenticator: RESTFramework) -> None:
    principal = authenticator.authenticate(request(f"Token {key_of(alice)}"))
    assert principal == Principal(Principal.key_of(alice.pk), alice)


def test_settings_name_a_subclass() -> None:
    assert isinstance(made(f"{__name__}.NamedBySettings"), NamedBySettings)


def test_a_wrong_token_fails_with_the_frameworks_own_words(alice: User) -> None:
    with pytest.raises(AuthenticationFailed, match=r"^Invalid token\.$"):
        RESTFramework(TOKENS).authenticate(request("Token wrong"))


def test_a_user_who_is_not_active_fails(alice: User) -> None:
    key = key_of(alice)
    User.objects.update(is_active=False)
    with pytest.raises(AuthenticationFailed, match="User inactive"):
        RESTFramework(TOKENS).authenticate(request(f"Token {key}"))


def test_a_password_works_where_a_project_wants_that(alice: User) -> None:
    credentials = b64encode(b"alice:sesame").decode()
    principal = RESTFramework(BASIC).authenticate(request(f"Basic {credentials}"))
    assert principal is not None
    assert principal.user == alice


def test_it_concerns_requests_with_the_scheme_of_the_class() -> None:
    tokens, basic = RESTFramework(TOKENS), RESTFramework(BASIC)
    assert tokens.concerns({"authorization": "Token x"})
    assert tokens.concerns({"authorization": "token x"})
    assert not tokens.concerns({"authorization": "Basic x"})
    assert not tokens.concerns({"cookie": "sessionid=x"})
    assert basic.concerns({"authorization": "Basic x"})


def test_others_are_left_to_others(alice: User) -> None:
    for header in (None, "Bearer x"):
        assert RESTFramework(TOKENS).authenticate(request(header)) is None


def test_the_challenge_names_the_scheme_of_the_class(no_servers: None) -> None:
    server = MCPServer("rest", authenticators=[RESTFramework(TOKENS), RESTFramework(BASIC)])
    asked = Request("POST", [(b"host", b"testserver")], b"", lambda body: request())
    assert challenges(server, asked, {}) == ['Token realm="MCP"', 'Basic realm="MCP"']


class Anything(BaseAuthentication):  # type: ignore[misc]
    """Recognises whatever the test says."""

    outcome: Any

    def authenticate(self, request: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def recognising(outcome: Any) -> RESTFramework:
    return RESTFramework(type("Given", (Anything,), {"outcome": outcome}))


def test_a_class_without_a_challenge_is_asked_about_any_authorization() -> None:
    given = recognising(None)
    assert given.scheme == ""
    assert given.concerns({"authorization": "Whatever x"})
    assert not given.concerns({})


def test_what_packages_say_in_a_dict_is_told_in_plain_words() -> None:
    error = exceptions.AuthenticationFailed({"detail": "The token has expired.", "code": "token_not_valid"})
    with pytest.raises(AuthenticationFailed, match=r"^The token has expired\.$"):
        recognising(error).authenticate(request())


def test_a_class_that_forgets_to_look_whether_the_user_is_active_lets_nobody_in(alice: User) -> None:
    alice.is_active = False
    with pytest.raises(AuthenticationFailed):
        recognising((alice, None)).authenticate(request())


def test_callers_without_a_user_need_a_key_from_the_project() -> None:
    with pytest.raises(ImproperlyConfigured, match="principal_of"):
        recognising((AnonymousUser(), "a key")).authenticate(request())


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (None, "needs an authentication class"),
        ("no.such.Class", "cannot be imported"),
        ("builtins.dict", "is no authentication class"),
        (SessionAuthentication, "DjangoLogin"),
    ],
)
def test_what_cannot_work_is_told_when_it_is_made(named: Any, told: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=told):
        RESTFramework(named)


@pytest.mark.anyio
async def test_an_endpoint_takes_its_tokens(no_servers: None, in_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = recognising((User(pk=7, username="alice"), None))
    server = MCPServer("rest", authenticators=[given])

    @server.tool()
    async def whoami() -> str:
        return "alice"

    async with connect(server, headers={"Authorization": "Token x"}) as client:
        assert (await client.call_tool("whoami"))["structuredContent"] == {"result": "alice"}
    with pytest.raises(ClientError) as caught:
        async with connect(server):
            pass
    assert caught.value.status == 401
