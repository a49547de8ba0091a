"""Protected resource metadata (RFC 9728): where they are, what they say, and who may read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.test import Client as WSGIClient
from django.urls import include, path

from mcp_django.asgi import Application
from tests.protocol import oauth_servers
from tests.protocol.client import Client, Response

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

WELL_KNOWN = "/.well-known/oauth-protected-resource"
DOCUMENT = {
    "authorization_servers": ["http://testserver/o"],
    "bearer_methods_supported": ["header"],
}
GUARDED = DOCUMENT | {
    "resource": "http://testserver/guarded/mcp",
    "resource_name": "Guarded",
    "scopes_supported": ["library:report"],
}


@pytest.fixture(autouse=True)
def project_with_oauth(project: None, settings: Settings) -> None:
    settings.ROOT_URLCONF = "tests.protocol.oauth_urls"


async def get(application: Application, place: str, method: str = "GET", **headers: str) -> Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Client(application, WELL_KNOWN + place).request(
        method, headers={"Accept": None, "Content-Type": None, **given}
    )


class Root:
    """A URLconf made for one test."""

    def __init__(self, *urlpatterns: Any) -> None:
        self.urlpatterns = list(urlpatterns)


class TestDocument:
    @pytest.mark.parametrize("place", ["/guarded/mcp", "/guarded/mcp/"])
    async def test_of_an_endpoint_says_where_tokens_are_to_be_had(self, application: Application, place: str) -> None:
        response = await get(application, place)
        assert response.status == 200
        assert response.json == GUARDED
        assert response.header("cache-control") == "public, max-age=300"

    async def test_lists_the_scopes_of_the_server_and_of_all_that_is_registered(self, application: Application) -> None:
        response = await get(application, "/scoped/mcp")
        assert response.json["scopes_supported"] == ["library:read", "library:report"]
        assert response.json["resource_name"] == "protocol-oauth-scoped"

    async def test_lists_no_scopes_where_none_is_wanted(self, application: Application) -> None:
        assert "scopes_supported" not in (await get(application, "/both/mcp")).json

    async def test_does_not_tell_of_hidden_things(self, application: Application) -> None:
        body = (await get(application, "/guarded/mcp")).body
        assert b"secret" not in body
        assert b"view_report" not in body

    async def test_names_the_servers_that_the_settings_name(self, application: Application, settings: Settings) -> None:
        elsewhere = {"OAUTH2_PROTECTED_RESOURCE_AUTHORIZATION_SERVERS": ["https://login.example"]}
        settings.OAUTH2_PROVIDER = settings.OAUTH2_PROVIDER | elsewhere
        assert (await get(application, "/guarded/mcp")).json["authorization_servers"] == ["https://login.example"]

    async def test_without_a_path_is_that_of_the_first_endpoint_that_has_any(self, application: Application) -> None:
        assert (await get(application, "")).json == GUARDED

    @pytest.mark.parametrize("place", ["/open/mcp", "/no/such/mcp", "/", "/protocol/mcp", "/o/token/"])
    async def test_is_404_where_there_is_nothing_to_tell(self, application: Application, place: str) -> None:
        if place == "/":
            place = "/somewhere"
        response = await get(application, place)
        assert response.status == 404
        assert response.error["message"]

    async def test_of_an_endpoint_with_a_captured_part_names_it(self, application: Application) -> None:
        assert (await get(application, "/tenants/one/mcp")).json["resource"] == "http://testserver/tenants/one/mcp"

    @pytest.mark.parametrize("place", ["/wrapped/mcp", "/slash-only"])
    async def test_is_there_for_endpoints_of_every_kind(self, application: Application, place: str) -> None:
        assert (await get(application, place)).json["resource"] == f"http://testserver{place}"

    async def test_has_the_urls_that_clients_see(self, application: Application, settings: Settings) -> None:
        settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
        client = Client(application, f"{WELL_KNOWN}/guarded/mcp", root_path="/prefix")
        found = (await client.request("GET", headers={"X-Forwarded-Proto": "https"})).json
        assert found["resource"] == "https://testserver/prefix/guarded/mcp"
        assert found["authorization_servers"] == ["https://testserver/prefix/o"]


class TestReaders:
    async def test_head_and_options_are_answered_and_nothing_else_is(self, application: Application) -> None:
        assert (await get(application, "/guarded/mcp", "HEAD")).status == 200
        options = await get(application, "/guarded/mcp", "OPTIONS")
        assert (options.status, options.header("allow")) == (204, "GET, HEAD, OPTIONS")
        refused = await get(application, "/guarded/mcp", "POST")
        assert (refused.status, refused.header("allow")) == (405, "GET, HEAD, OPTIONS")

    async def test_a_foreign_origin_is_refused_and_told_which_setting_would_let_it_in(
        self, application: Application
    ) -> None:
        response = await get(application, "/guarded/mcp", Origin="https://evil.example")
        assert response.status == 403
        assert "MCP_DJANGO_ALLOWED_ORIGINS" in response.error["message"]
        assert response.header("access-control-allow-origin") is None

    async def test_an_allowed_origin_may_read(self, application: Application, settings: Settings) -> None:
        settings.MCP_DJANGO_ALLOWED_ORIGINS = ["https://app.example"]
        for method in ("GET", "OPTIONS"):
            response = await get(application, "/guarded/mcp", method, Origin="https://app.example")
            assert response.header("access-control-allow-origin") == "https://app.example"
            assert response.header("vary") == "Origin"
        assert "MCP-Protocol-Version" in str(response.header("access-control-allow-headers"))

    async def test_a_cache_keeps_browsers_and_others_apart(self, application: Application) -> None:
        assert (await get(application, "/guarded/mcp")).header("vary") == "Origin"

    async def test_a_host_that_is_not_ours_is_refused(self, application: Application) -> None:
        assert (await get(application, "/guarded/mcp", Host="evil.example")).status == 400

    def test_under_wsgi_too_a_project_that_wants_everybody_logged_in_lets_it_be_read(self, settings: Settings) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
        assert WSGIClient().get(f"{WELL_KNOWN}/guarded/mcp").json() == GUARDED


class TestPlaces:
    """Under which URLs a project may have them."""

    GUARDED = path("guarded/", include(oauth_servers.guarded.urls))
    ISSUER = path("", include("demo_project.oauth.urls"))

    async def challenged(self, application: Application, path: str = "/guarded/mcp") -> str:
        return str((await Client(application, path).handshake()).header("www-authenticate"))

    async def test_beside_the_default_server_at_the_root(self, application: Application, settings: Settings) -> None:
        settings.ROOT_URLCONF = Root(path("", include("mcp_django.urls")), self.GUARDED, self.ISSUER)
        assert f'"http://testserver{WELL_KNOWN}/guarded/mcp"' in await self.challenged(application)

    async def test_at_the_root_while_the_default_server_is_under_a_prefix(
        self, application: Application, settings: Settings
    ) -> None:
        prefixed = path("api/", include("mcp_django.urls"))
        settings.ROOT_URLCONF = Root(prefixed, path("", include("mcp_django.well_known")), self.GUARDED, self.ISSUER)
        assert f'"http://testserver{WELL_KNOWN}/guarded/mcp"' in await self.challenged(application)

    @pytest.mark.parametrize("first", ["prefix only", "toolkit first"])
    async def test_nowhere_that_clients_look_so_that_the_challenge_names_none(
        self, application: Application, settings: Settings, first: str
    ) -> None:
        lost = [path("api/", include("mcp_django.urls")), self.GUARDED, self.ISSUER]
        shadowed = [self.ISSUER, path("", include("mcp_django.urls")), self.GUARDED]
        settings.ROOT_URLCONF = Root(*(lost if first == "prefix only" else shadowed))
        assert await self.challenged(application) == "Bearer"
