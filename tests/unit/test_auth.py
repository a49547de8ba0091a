"""Who may come in."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings

from mcp_django.auth import (
    ANONYMOUS,
    Authenticator,
    DjangoLogin,
    Principal,
    authenticate,
    default_authenticators,
)


class Knows(Authenticator):
    """Recognises whoever says a word in a header."""

    def __init__(self, word: str, asked: list[str] | None = None) -> None:
        self.word = word
        self.asked = asked if asked is not None else []

    def concerns(self, headers: dict[str, str]) -> bool:
        return "x-word" in headers

    def authenticate(self, request: HttpRequest) -> Principal | None:
        self.asked.append(self.word)
        return Principal(f"word:{self.word}") if request.headers.get("X-Word") == self.word else None


def request(**headers: str) -> HttpRequest:
    return RequestFactory().post("/mcp", headers=headers)


class TestOrder:
    def test_the_first_that_recognises_the_request_says_whose_it_is(self) -> None:
        asked: list[str] = []
        both = (Knows("open", asked), Knows("sesame", asked), Knows("open", asked))
        assert authenticate(both, request(x_word="sesame")) == Principal("word:sesame")
        assert asked == ["open", "sesame"]

    def test_whom_nobody_recognises_is_anonymous(self) -> None:
        assert authenticate((Knows("open"),), request(x_word="closed")) is ANONYMOUS
        assert authenticate((), request()) is ANONYMOUS

    def test_an_error_of_an_authenticator_does_not_let_anybody_in(self) -> None:
        class Broken(Authenticator):
            def authenticate(self, request: HttpRequest) -> Principal | None:
                raise LookupError("the directory is away")

        with pytest.raises(LookupError):
            authenticate((Broken(), Knows("open")), request(x_word="open"))


class TestPrincipal:
    def test_the_anonymous_one_has_no_key_and_djangos_anonymous_user(self) -> None:
        assert ANONYMOUS.key == ""
        assert isinstance(ANONYMOUS.user_or_anonymous, AnonymousUser)

    def test_one_with_a_user_gives_that_user(self) -> None:
        user = get_user_model()(username="ann")
        assert Principal("user:1", user).user_or_anonymous is user


class TestAuthenticator:
    def test_a_subclass_that_forgot_a_method_is_told_which(self) -> None:
        class Forgetful(Authenticator): ...

        with pytest.raises(NotImplementedError, match=r"Forgetful must define concerns\(headers\)"):
            Forgetful().concerns({})
        with pytest.raises(NotImplementedError, match=r"Forgetful must define authenticate\(request\)"):
            Forgetful().authenticate(request())


class TestDefault:
    def test_those_that_the_setting_names_are_made_once(self) -> None:
        (only,) = default_authenticators()
        assert isinstance(only, DjangoLogin)
        assert default_authenticators() is default_authenticators()

    def test_the_setting_is_read_again(self) -> None:
        with override_settings(MCP_DJANGO_AUTHENTICATORS=[]):
            assert default_authenticators() == ()
        assert len(default_authenticators()) == 1


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

    @override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    def test_logins_are_read_from_where_the_project_keeps_them(self, user: Any) -> None:
        principal = DjangoLogin().authenticate(with_cookie(login(user)))
        assert principal is not None
        assert principal.user == user

    @override_settings(SESSION_COOKIE_NAME="own")
    def test_the_cookies_name_is_the_projects(self, user: Any) -> None:
        assert DjangoLogin().concerns({"cookie": "own=1"})
        assert DjangoLogin().authenticate(with_cookie(login(user))) is not None
