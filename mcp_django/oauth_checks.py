"""System checks of OAuth: whether clients find their way to a token, and whether it is a safe one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.urls import NoReverseMatch, Resolver404, resolve, reverse

from mcp_django.auth import Authenticator, OAuthToolkit
from mcp_django.auth.credentials import METADATA_PATH, is_metadata
from mcp_django.auth.oauth_toolkit import APP
from mcp_django.auth_checks import authenticators_of
from mcp_django.routes import served
from mcp_django.server import MCPServer

# All of the toolkit's gates but COMPLIANT_BCP_RFC9700_REDIRECT_URI_SCHEME: with that one, redirects to http are an
# error, and clients on a desktop have theirs at http://127.0.0.1 (RFC 8252, section 7.3).
GATES: Final = tuple(
    f"COMPLIANT_BCP_RFC9700_{name}"
    for name in (
        "IMPLICIT_GRANT",
        "PASSWORD_GRANT",
        "PKCE_METHOD",
        "PKCE_REQUIRED",
        "ACCESS_TOKEN_TRANSPORT",
        "AUTHZ_RESPONSE_ISS",
        "TOKEN_STORAGE",
        "REFRESH_TOKEN",
        "REDIRECT_URI_MATCHING",
    )
)
AppConfigs = Sequence[AppConfig] | None
SERVER_METADATA_PATH: Final = ".well-known/oauth-authorization-server"  # RFC 8414, section 3


@register(Tags.urls)
def metadata_are_at_the_root(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E008: clients cannot find where to get a token."""
    lost = having_metadata()
    if lost and not all(is_metadata(place) for place in (METADATA_PATH, f"{METADATA_PATH}/mcp")):
        yield Error(
            f"/{METADATA_PATH} is not served by mcp_django, where clients of {names(lost)} look for the authorization "
            "server.",
            hint='Add path("", include("mcp_django.well_known")) to the root URLconf, before the URLs of '
            "django-oauth-toolkit, which has a view of its own there.",
            id="mcp_django.E008",
        )


@register(Tags.urls)
def authorization_server_is_found(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E009: the metadata name no authorization server, or one whose own metadata are not where clients look."""
    if not guarded() or not apps.is_installed(APP):
        return
    oauth = toolkit_settings()
    if oauth.OAUTH2_PROTECTED_RESOURCE_AUTHORIZATION_SERVERS or oauth.OIDC_ISS_ENDPOINT:
        # Wherever that is: somebody has thought of it.
        return
    try:
        issuer = reverse("oauth2_provider:oauth-server-metadata").partition(f"/{SERVER_METADATA_PATH}")[0]
    except NoReverseMatch:
        yield Error(
            "The URLs of django-oauth-toolkit are not in the root URLconf: there is nowhere to get a token.",
            hint='Add path("o/", include("oauth2_provider.urls")).',
            id="mcp_django.E009",
        )
        return
    wanted = f"/{SERVER_METADATA_PATH}{issuer}"
    try:
        resolve(wanted)
    except Resolver404:
        yield Error(
            f"The authorization server's metadata are not at {wanted}, where clients look for them (RFC 8414).",
            hint='Add path("", include(oauth2_provider.urls.metadata_urlpatterns)) to the root URLconf, after '
            "mcp_django's.",
            id="mcp_django.E009",
        )


@register(Tags.security)
def authorization_server_is_safe(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W010, W011: what django-oauth-toolkit still allows by default, and RFC 9700 does not."""
    if not guarded() or not apps.is_installed(APP):
        return
    oauth = toolkit_settings()
    if off := [gate for gate in GATES if not getattr(oauth, gate, True)]:
        yield Warning(
            f"These safety gates of OAUTH2_PROVIDER are off: {', '.join(off)}.",
            hint="Set each to True (RFC 9700). COMPLIANT_BCP_RFC9700_REDIRECT_URI_SCHEME is not among them: clients on "
            "a desktop redirect to http://127.0.0.1.",
            id="mcp_django.W010",
        )
    if not oauth.PKCE_REQUIRED:
        yield Warning(
            "OAUTH2_PROVIDER['PKCE_REQUIRED'] is off: a stolen authorization code is as good as a token.",
            hint="Leave it at its default, True. Every MCP client does PKCE.",
            id="mcp_django.W011",
        )


@register(Tags.security)
def clients_can_register(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W012, W013: clients that nobody has entered by hand cannot get a token."""
    if not guarded() or not apps.is_installed(APP):
        return
    oauth = toolkit_settings()
    if "none" not in oauth.OAUTH2_TOKEN_ENDPOINT_AUTH_METHODS_SUPPORTED:
        yield Warning(
            'OAUTH2_PROVIDER["OAUTH2_TOKEN_ENDPOINT_AUTH_METHODS_SUPPORTED"] lacks "none": public clients, which most '
            "MCP clients are, take the authorization server for one that does not serve them.",
            hint='Add "none". PKCE protects what a secret does not.',
            id="mcp_django.W012",
        )
    if not (oauth.DCR_ENABLED or oauth.CIMD_ENABLED):
        yield Warning(
            "OAUTH2_PROVIDER has neither CIMD_ENABLED nor DCR_ENABLED: only clients that are entered in the admin can "
            "get a token.",
            hint="Set CIMD_ENABLED for clients that have a metadata document, and DCR_ENABLED with "
            "DCR_REGISTRATION_PERMISSION_CLASSES for those that register themselves.",
            id="mcp_django.W013",
        )


@register(Tags.security)
def tokens_fit_the_servers(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W014, W015: audiences that anybody can choose, scopes that nobody can get."""
    if not guarded() or not apps.is_installed(APP):
        return
    if "*" in settings.ALLOWED_HOSTS:
        yield Warning(
            "ALLOWED_HOSTS holds '*': a token for any host's /mcp passes here, as the caller says by the Host header "
            "which resource this is.",
            hint="Name the hosts that the project is served under.",
            id="mcp_django.W014",
        )
    known = set(toolkit_settings().SCOPES_BACKEND_CLASS().get_all_scopes())
    for server in guarded():
        if unknown := sorted(server.all_scopes - known):
            yield Warning(
                f"Server {server.name!r} wants scopes that django-oauth-toolkit does not know: {', '.join(unknown)}.",
                hint="Add them to OAUTH2_PROVIDER['SCOPES'], each with what the consent page is to say of it.",
                id="mcp_django.W015",
            )


def toolkit_settings() -> Any:
    """The toolkit's settings, defaults included."""
    from oauth2_provider.settings import oauth2_settings  # noqa: PLC0415 - optional

    return oauth2_settings


def guarded() -> list[MCPServer]:
    """Those that take the toolkit's tokens."""
    return [s for s in served() if any(isinstance(each, OAuthToolkit) for each in authenticators_of(s))]


def having_metadata() -> list[MCPServer]:
    """Those with an authenticator that may have metadata."""
    own = Authenticator.metadata
    return [s for s in served() if any(type(each).metadata is not own for each in authenticators_of(s))]


def names(found: list[MCPServer]) -> str:
    """Servers, as a message names them."""
    return ", ".join(repr(server.name) for server in found)
