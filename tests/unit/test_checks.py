"""System checks: each is silent in a project that is right, and says what to change in one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.core import checks as django_checks
from django.core.checks import CheckMessage
from django.db import connections
from django.test import override_settings
from django.urls import clear_url_caches, include, path

from mcp_django import MCPServer, checks
from mcp_django.server import mcp

SERVER_CHECKS = [
    checks.settings_are_known_and_right,
    checks.servers_can_be_built,
    checks.permissions_are_of_installed_apps,
    checks.urls_have_no_language_prefix,
    checks.middleware_is_not_missed,
    checks.sqlite_is_ready_for_threads,
    checks.sessions_are_durable,
]


def messages(check: Any) -> list[CheckMessage]:
    """What a check says; every message says what to do, in itself or in its hint."""
    found = list(check(None))
    for message in found:
        assert message.id.startswith("mcp_django.")
        assert len(message.msg) > 20
    return found


def ids(check: Any) -> list[str]:
    return [str(message.id).removeprefix("mcp_django.") for message in messages(check)]


def test_every_check_is_registered() -> None:
    registered = set(django_checks.registry.registry.get_checks(include_deployment_checks=True))
    assert set(SERVER_CHECKS) <= registered


@pytest.mark.django_db  # the toolkit's models ask the database whether it can JSON
def test_the_demo_project_passes_all_of_them() -> None:
    found = django_checks.run_checks(include_deployment_checks=True, databases=["default"])
    # It is open to everybody on purpose, and its settings say so.
    assert [
        message for message in found if str(message.id).startswith("mcp_django") and not message.is_silenced()
    ] == []


def test_what_only_matters_in_production_is_said_there_only() -> None:
    with override_settings(ALLOWED_HOSTS=["*"]):
        assert not [message for message in django_checks.run_checks() if message.id == "mcp_django.W004"]
        deployed = django_checks.run_checks(include_deployment_checks=True)
        assert [message for message in deployed if message.id == "mcp_django.W004"]


class TestSettings:
    def test_an_unknown_name_is_e001_and_the_known_ones_are_told(self) -> None:
        with override_settings(MCP_DJANGO_SESION_TTL=timedelta(days=1)):
            (message,) = messages(checks.settings_are_known_and_right)
        assert message.id == "mcp_django.E001"
        assert "MCP_DJANGO_SESION_TTL" in message.msg
        assert "MCP_DJANGO_SESSION_TTL" in str(message.hint)

    @pytest.mark.parametrize(
        ("name", "value"), [("SESSION_TTL", 14), ("PAGE_SIZE", 0), ("ALLOWED_ORIGINS", "https://a.example")]
    )
    def test_a_wrong_value_is_e002_and_names_the_setting(self, name: str, value: Any) -> None:
        with override_settings(**{f"MCP_DJANGO_{name}": value}):
            (message,) = messages(checks.settings_are_known_and_right)
        assert message.id == "mcp_django.E002"
        assert f"MCP_DJANGO_{name}" in message.msg

    def test_each_mistake_is_told(self) -> None:
        with override_settings(MCP_DJANGO_NO_SUCH=1, MCP_DJANGO_PAGE_SIZE=0, MCP_DJANGO_MAX_BATCH="x"):
            assert sorted(ids(checks.settings_are_known_and_right)) == ["E001", "E002", "E002"]

    def test_sessions_that_expire_between_two_touches_are_e002(self) -> None:
        with override_settings(
            MCP_DJANGO_SESSION_TTL=timedelta(seconds=100), MCP_DJANGO_TOUCH_RESOLUTION=timedelta(seconds=51)
        ):
            assert ids(checks.settings_are_known_and_right) == ["E002"]
        with override_settings(
            MCP_DJANGO_SESSION_TTL=timedelta(seconds=100), MCP_DJANGO_TOUCH_RESOLUTION=timedelta(seconds=50)
        ):
            assert ids(checks.settings_are_known_and_right) == []


class TestServers:
    def test_a_server_that_cannot_be_built_is_e003_and_names_server_and_function(self, no_servers: None) -> None:
        right, wrong = MCPServer("right"), MCPServer("wrong")

        @right.tool()
        def works(query: str) -> None: ...

        @wrong.tool()
        def broken(_query: str) -> None: ...

        (message,) = messages(checks.servers_can_be_built)
        assert message.id == "mcp_django.E003"
        assert "'wrong'" in message.msg
        assert "broken" in message.msg
        assert message.obj is wrong

    def test_a_store_that_cannot_be_had_is_e004(self, no_servers: None) -> None:
        for store_path in ("no.such.Store", "builtins.dict"):
            with override_settings(MCP_DJANGO_SESSION_STORE=store_path):
                (message,) = messages(checks.servers_can_be_built)
            assert message.id == "mcp_django.E004"
            assert store_path in message.msg

    def test_an_authenticator_that_cannot_be_imported_is_told_at_start_up(self) -> None:
        with override_settings(MCP_DJANGO_AUTHENTICATORS=["mcp_django.auth.NoSuchLogin"]):
            found = django_checks.run_checks()
        assert [message for message in found if "NoSuchLogin" in message.msg]


@pytest.fixture
def urlconf() -> Iterator[Any]:
    """Run with these URL patterns."""

    class URLs:
        urlpatterns: list[Any] = []

    with override_settings(ROOT_URLCONF=URLs):
        clear_url_caches()
        yield URLs
    clear_url_caches()


class TestURLs:
    def test_an_endpoint_under_a_language_prefix_is_e005(self, urlconf: Any, no_servers: None) -> None:
        urlconf.urlpatterns = i18n_patterns(path("", include(mcp.urls)))
        found = messages(checks.urls_have_no_language_prefix)
        assert {message.id for message in found} == {"mcp_django.E005"}
        assert "'default'" in found[0].msg

    def test_one_deeper_under_a_language_prefix_is_found(self, urlconf: Any) -> None:
        urlconf.urlpatterns = i18n_patterns(path("api/", include([path("v1/", include(mcp.urls))])))
        assert "E005" in ids(checks.urls_have_no_language_prefix)

    def test_one_beside_a_language_prefix_is_fine(self, urlconf: Any) -> None:
        urlconf.urlpatterns = [path("", include(mcp.urls)), *i18n_patterns(path("admin/", admin.site.urls))]
        assert ids(checks.urls_have_no_language_prefix) == []

    def test_a_project_without_urls_is_fine(self) -> None:
        with override_settings(ROOT_URLCONF=None):
            assert ids(checks.urls_have_no_language_prefix) == []


class View:
    """An entry that runs the project's middleware, as Django's own does."""


class Native:
    runs_middleware = False


view, native = View(), Native()


class TestMiddleware:
    def test_one_that_the_native_entry_does_not_run_is_w001(self) -> None:
        with override_settings(
            ASGI_APPLICATION=f"{__name__}.native",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.locale.LocaleMiddleware"],
        ):
            (message,) = messages(checks.middleware_is_not_missed)
        assert message.id == "mcp_django.W001"
        assert "LocaleMiddleware" in message.msg
        assert "django.core.asgi.get_asgi_application" in str(message.hint)

    @pytest.mark.parametrize("application", [f"{__name__}.view", "no.such.application", None, ""])
    def test_it_is_fine_under_another_entry(self, application: str | None) -> None:
        with override_settings(ASGI_APPLICATION=application, MIDDLEWARE=["django.middleware.locale.LocaleMiddleware"]):
            assert ids(checks.middleware_is_not_missed) == []

    def test_what_the_demo_has_is_harmless(self) -> None:
        with override_settings(ASGI_APPLICATION=f"{__name__}.native"):
            assert ids(checks.middleware_is_not_missed) == []


@pytest.mark.skipif("connections['default'].vendor != 'sqlite'", reason="about SQLite")
class TestSQLite:
    @pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}, {"timeout": 20}])
    def test_one_that_is_not_ready_for_threads_is_w002(
        self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
        (message,) = messages(checks.sqlite_is_ready_for_threads)
        assert message.id == "mcp_django.W002"
        assert "journal_mode=WAL" in str(message.hint)

    def test_one_that_takes_its_locks_at_once_is_fine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"transaction_mode": "immediate"})
        assert ids(checks.sqlite_is_ready_for_threads) == []

    def test_another_database_is_fine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(connections["default"]), "vendor", "postgresql")
        monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {})
        assert ids(checks.sqlite_is_ready_for_threads) == []


class TestDeployment:
    def test_sessions_in_memory_are_w003(self) -> None:
        with override_settings(MCP_DJANGO_SESSION_STORE="mcp_django.memory.MemoryStore"):
            assert ids(checks.sessions_are_durable) == ["W003"]

    def test_a_store_that_cannot_be_had_is_told_once_and_not_here(self) -> None:
        for store_path in ("no.such.Store", 5):
            with override_settings(MCP_DJANGO_SESSION_STORE=store_path):
                assert ids(checks.sessions_are_durable) == []

    def test_any_host_is_w004(self) -> None:
        with override_settings(ALLOWED_HOSTS=["api.example.com", "*"]):
            assert ids(checks.sessions_are_durable) == ["W004"]

    def test_named_hosts_and_the_database_are_fine(self) -> None:
        with override_settings(ALLOWED_HOSTS=["api.example.com", ".example.org"]):
            assert ids(checks.sessions_are_durable) == []


class TestPermissions:
    def test_one_of_an_app_that_is_not_there_is_w005_and_names_the_function_and_the_label(
        self, no_servers: None
    ) -> None:
        server = MCPServer("permissions")

        @server.tool(permission="libary.view_report")
        async def misspelt() -> None: ...

        @server.resource("test://x", permission="auth.view_user")
        async def right() -> str:
            return ""

        @server.prompt(permission=lambda user: True)
        async def function() -> str:
            return ""

        @server.tool()
        async def anybody() -> None: ...

        (message,) = messages(checks.permissions_are_of_installed_apps)
        assert message.id == "mcp_django.W005"
        assert "misspelt" in message.msg
        assert "'libary.view_report'" in message.msg
        assert "app_label.codename" in str(message.hint)
