"""System checks of who may come in."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.test import override_settings
from django.urls import clear_url_caches, include, path

from mcp_django import MCPServer, auth_checks
from mcp_django.auth import DjangoLogin, public


@pytest.fixture
def project(no_servers: None) -> Iterator[Any]:
    """Makes a server and has the project serve it."""
    urls: Any = ModuleType("urls_of_a_project")
    urls.urlpatterns = []

    def serve(*authenticators: Any, **options: Any) -> MCPServer:
        server = MCPServer(f"server-{len(urls.urlpatterns)}", authenticators=authenticators, **options)
        urls.urlpatterns.append(path(f"{server.name}/", include(server.urls)))
        clear_url_caches()
        return server

    with override_settings(ROOT_URLCONF=urls, DEBUG=False):
        yield serve
    clear_url_caches()


def said(check: Any) -> list[CheckMessage]:
    found = list(check(None))
    assert all(message.hint for message in found)
    return found


def ids(check: Any) -> list[str]:
    return [str(message.id).removeprefix("mcp_django.") for message in said(check)]


def test_a_server_that_lets_nobody_in_is_a_warning_where_debug_is_off(project: Any) -> None:
    project()
    (message,) = said(auth_checks.it_is_said_who_may_come_in)
    assert message.id == "mcp_django.W008"
    assert "MCP_DJANGO_AUTHENTICATORS" in str(message.hint)
    with override_settings(DEBUG=True):
        assert said(auth_checks.it_is_said_who_may_come_in) == []


def test_a_public_server_is_a_warning_where_debug_is_off(project: Any) -> None:
    project(DjangoLogin, public)
    project(DjangoLogin)
    (message,) = said(auth_checks.it_is_said_who_may_come_in)
    assert message.id == "mcp_django.W006"
    assert "'server-0'" in message.msg
    with override_settings(DEBUG=True):
        assert said(auth_checks.it_is_said_who_may_come_in) == []


def test_scopes_of_a_public_server_are_an_error(project: Any) -> None:
    project(DjangoLogin, public, scopes=["read"])
    project(DjangoLogin, scopes=["read"])
    assert ids(auth_checks.it_is_said_who_may_come_in) == ["W006", "E010"]


def test_authenticators_that_cannot_be_had_are_another_checks_to_tell(project: Any) -> None:
    project("nowhere.Authenticator")
    with override_settings(USE_X_FORWARDED_HOST=True):
        assert said(auth_checks.proxies_are_named) == []


@pytest.mark.parametrize(
    "behind",
    [
        {"USE_X_FORWARDED_HOST": True},
        {"USE_X_FORWARDED_PORT": True},
        {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")},
    ],
    ids=str,
)
def test_a_proxy_that_nobody_named_is_a_warning(project: Any, behind: dict[str, Any]) -> None:
    project(public)
    assert ids(auth_checks.proxies_are_named) == []
    with override_settings(**behind):
        assert ids(auth_checks.proxies_are_named) == ["W007"]
        with override_settings(MCP_DJANGO_TRUSTED_PROXIES=["10.0.0.0/8"]):
            assert ids(auth_checks.proxies_are_named) == []


def test_where_nobody_is_anonymous_proxies_do_not_matter(project: Any) -> None:
    project(DjangoLogin)
    with override_settings(USE_X_FORWARDED_HOST=True):
        assert ids(auth_checks.proxies_are_named) == []
