"""System checks of OAuth: silent in a project that is right, and what they say of one that is not."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core import checks as django_checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from oauth2_provider import urls as toolkit_urls
from oauth2_provider.settings import DEFAULTS

from demo_project.oauth.settings import OAUTH2_PROVIDER
from mcp_django import MCPServer, oauth_checks
from mcp_django.auth import OAuthToolkit
from mcp_django.auth import oauth_toolkit as module

CHECKS = [
    oauth_checks.metadata_are_at_the_root,
    oauth_checks.authorization_server_is_found,
    oauth_checks.authorization_server_is_safe,
    oauth_checks.clients_can_register,
    oauth_checks.tokens_fit_the_servers,
]
WELL_KNOWN = path("", include("mcp_django.well_known"))
ROOT = Path(__file__).resolve().parents[2]
numbers = itertools.count()
ISSUER = path("o/", include("oauth2_provider.urls"))
ROOT_OF_ISSUER = path("", include(toolkit_urls.metadata_urlpatterns))


class Root:
    """A URLconf made for one test."""

    def __init__(self, *urlpatterns: Any) -> None:
        self.urlpatterns = list(urlpatterns)


@pytest.fixture
def server() -> MCPServer:
    return MCPServer(f"checked-oauth-{next(numbers)}", authenticators=[OAuthToolkit], scopes=["library:read"])


@pytest.fixture
def endpoint(server: MCPServer) -> Any:
    return path("members/", include(server.urls))


@pytest.fixture(autouse=True)
def project(endpoint: Any) -> Iterator[None]:
    """One that is right."""
    with override_settings(ROOT_URLCONF=Root(endpoint, WELL_KNOWN, ISSUER, ROOT_OF_ISSUER)):
        yield
    clear_url_caches()


def messages() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for check in CHECKS:
        found += list(check(None))
    for message in found:
        assert len(message.msg) > 20
        assert message.hint
    return found


def ids() -> list[str]:
    return [str(message.id).removeprefix("mcp_django.") for message in messages()]


def toolkit(**changes: Any) -> Any:
    return override_settings(OAUTH2_PROVIDER=OAUTH2_PROVIDER | changes)


def test_they_are_registered() -> None:
    assert set(CHECKS) <= set(django_checks.registry.registry.get_checks())


def test_a_project_with_the_documented_settings_and_urls_passes() -> None:
    assert settings.OAUTH2_PROVIDER is OAUTH2_PROVIDER
    assert messages() == []


def test_a_project_without_oauth_is_left_alone() -> None:
    plain = MCPServer("checked-plain", authenticators=[])
    with override_settings(ROOT_URLCONF=Root(path("", include(plain.urls))), OAUTH2_PROVIDER={}):
        assert messages() == []
    with override_settings(ROOT_URLCONF=None, OAUTH2_PROVIDER={}):
        assert messages() == []


class TestInstallation:
    def test_an_app_that_is_not_installed_is_e007(self) -> None:
        apps = [app for app in settings.INSTALLED_APPS if app != "oauth2_provider"]
        with override_settings(INSTALLED_APPS=apps):
            (message,) = OAuthToolkit().check()
            assert message.id == "mcp_django.E007"
            assert "INSTALLED_APPS" in str(message.hint)
            with pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
                OAuthToolkit()._tokens  # noqa: B018 - imported at first access
        assert list(OAuthToolkit().check()) == []

    def test_without_the_package_it_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "find_spec", lambda name: None)
        with pytest.raises(ImproperlyConfigured, match=r"pip install 'django-mcp-sessions\[oauth\]'"):
            OAuthToolkit()


class TestURLs:
    def test_metadata_that_are_not_at_the_root_are_e008(self, endpoint: Any) -> None:
        under_prefix = path("api/", include("mcp_django.well_known"))
        with override_settings(ROOT_URLCONF=Root(endpoint, under_prefix, ISSUER)):
            (message, _no_issuer) = messages()
        assert message.id == "mcp_django.E008"
        assert "checked-oauth" in message.msg
        assert "mcp_django.well_known" in str(message.hint)

    def test_metadata_behind_those_of_the_toolkit_are_e008(self, endpoint: Any) -> None:
        with override_settings(ROOT_URLCONF=Root(endpoint, ROOT_OF_ISSUER, WELL_KNOWN, ISSUER)):
            assert ids() == ["E008"]

    def test_metadata_under_a_prefix_as_well_do_no_harm(self, endpoint: Any) -> None:
        under_prefix = path("api/", include("mcp_django.urls"))
        with override_settings(ROOT_URLCONF=Root(endpoint, under_prefix, WELL_KNOWN, ISSUER, ROOT_OF_ISSUER)):
            assert messages() == []

    def test_an_authorization_server_without_urls_is_e009(self, endpoint: Any) -> None:
        with override_settings(ROOT_URLCONF=Root(endpoint, WELL_KNOWN)):
            assert ids() == ["E009"]

    def test_an_authorization_server_whose_metadata_are_not_at_the_root_is_e009(self, endpoint: Any) -> None:
        with override_settings(ROOT_URLCONF=Root(endpoint, WELL_KNOWN, ISSUER)):
            (message,) = messages()
        assert message.id == "mcp_django.E009"
        assert "/.well-known/oauth-authorization-server/o" in message.msg

    def test_one_that_is_at_the_root_altogether_is_found(self, endpoint: Any) -> None:
        with override_settings(ROOT_URLCONF=Root(endpoint, WELL_KNOWN, path("", include("oauth2_provider.urls")))):
            assert messages() == []

    @pytest.mark.parametrize(
        "elsewhere",
        [
            {"OAUTH2_PROTECTED_RESOURCE_AUTHORIZATION_SERVERS": ["https://login.example"]},
            {"OIDC_ISS_ENDPOINT": "https://login.example"},
        ],
    )
    def test_one_that_the_settings_name_is_not_looked_for(self, endpoint: Any, elsewhere: dict[str, Any]) -> None:
        with override_settings(ROOT_URLCONF=Root(endpoint, WELL_KNOWN)), toolkit(**elsewhere):
            assert messages() == []


class TestSafety:
    @pytest.mark.parametrize("gate", oauth_checks.GATES)
    def test_each_gate_that_is_off_is_w010(self, gate: str) -> None:
        with toolkit(**{gate: False}):
            (message,) = messages()
        assert message.id == "mcp_django.W010"
        assert gate in message.msg
        assert "http://127.0.0.1" in str(message.hint)

    def test_every_gate_of_the_toolkit_is_known(self) -> None:
        ours = {*oauth_checks.GATES, "COMPLIANT_BCP_RFC9700_REDIRECT_URI_SCHEME"}
        assert ours == {name for name in DEFAULTS if name.startswith("COMPLIANT_BCP_RFC9700_")}

    def test_what_the_toolkit_does_by_default_is_told_in_full(self) -> None:
        with override_settings(OAUTH2_PROVIDER={"SCOPES": OAUTH2_PROVIDER["SCOPES"]}):
            assert ids() == ["W010", "W012", "W013"]

    def test_pkce_that_is_not_required_is_w011(self) -> None:
        with toolkit(PKCE_REQUIRED=False):
            assert ids() == ["W011"]

    def test_a_token_endpoint_without_none_is_w012(self) -> None:
        with toolkit(OAUTH2_TOKEN_ENDPOINT_AUTH_METHODS_SUPPORTED=["client_secret_basic"]):
            assert ids() == ["W012"]

    @pytest.mark.parametrize(("dcr", "cimd", "said"), [(False, False, ["W013"]), (True, False, []), (False, True, [])])
    def test_clients_that_cannot_register_are_w013(self, dcr: bool, cimd: bool, said: list[str]) -> None:
        with toolkit(DCR_ENABLED=dcr, CIMD_ENABLED=cimd):
            assert ids() == said

    def test_hosts_that_anybody_may_choose_are_w014(self) -> None:
        with override_settings(ALLOWED_HOSTS=["*"]):
            assert ids() == ["W014"]

    def test_scopes_that_nobody_can_get_are_w015(self, server: MCPServer) -> None:
        @server.tool(scopes=["library:fly"])
        def fly() -> None:
            """Fly."""

        (message,) = messages()
        assert message.id == "mcp_django.W015"
        assert "library:fly" in message.msg
        assert "library:read" not in message.msg


def test_the_demo_without_oauth_imports_nothing_of_the_toolkit() -> None:
    code = (
        "import sys, django; django.setup(); from django.core import checks; from django.urls import get_resolver;"
        "get_resolver().url_patterns; checks.run_checks();"
        "assert not {'oauth2_provider', 'demo_project.oauth'} & set(sys.modules)"
    )
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "demo_project.settings", "OAUTH": "", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
