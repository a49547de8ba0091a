"""OAuth 2.1 access tokens that django-oauth-toolkit has issued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import cached_property

from mcp_django.auth.authenticators import AuthenticationFailed, Authenticator
from mcp_django.auth.credentials import resource_url
from mcp_django.auth.principals import Principal
from mcp_django.auth.resources import is_among, resource_of
from mcp_django.http import Request
from mcp_django.models import digest_of

if TYPE_CHECKING:
    from mcp_django.auth.oauth_tokens import Token

APP: Final = "oauth2_provider"
NOT_INSTALLED: Final = f"OAuthToolkit is used, and the app that keeps the tokens is not installed: {APP}."
INSTALL: Final = f'Add "{APP}" to INSTALLED_APPS and run manage.py migrate.'
INVALID: Final = "The access token is unknown here, has expired or was revoked. Get a new one."
NOT_FOR_THIS: Final = "The access token is not for this resource. Ask for one with resource={resource} (RFC 8707)."


class OAuthToolkit(Authenticator):
    """Access tokens of django-oauth-toolkit's, sent as ``Authorization: Bearer``.

    A token must be for this very endpoint: its ``resource`` names it. The toolkit itself lets a token without a
    resource pass everywhere; here it passes nowhere.

    Raises:
        ImproperlyConfigured: the toolkit is not installed.
    """

    recheck_every: ClassVar[float] = 0.0
    """With every poll: one query answers for all open streams."""

    def __init__(self) -> None:
        if find_spec(APP) is None:
            raise ImproperlyConfigured(
                "OAuthToolkit needs django-oauth-toolkit: pip install 'django-mcp-sessions[oauth]'."
            )

    def concerns(self, headers: dict[str, str]) -> bool:
        return token_of(headers) is not None

    def authenticate(self, request: HttpRequest) -> Principal | None:
        token = token_of({"authorization": request.headers.get("Authorization", "")})
        if token is None:
            return None
        resource = resource_url(request)
        (found,) = self._tokens.read([self._tokens.Wanted(digest_of(token), resource)])
        return principal_of(found, resource)

    async def recognise(self, request: Request, server: str) -> Principal | None:
        token = token_of(request.headers)
        if token is None:
            return None
        resource = resource_of(request)
        return principal_of(await self._tokens.lane.ask(self._tokens.Wanted(digest_of(token), resource)), resource)

    def metadata(self, request: HttpRequest) -> Mapping[str, Any] | None:
        """The toolkit's own issuer, or the servers that ``OAUTH2_PROTECTED_RESOURCE_AUTHORIZATION_SERVERS`` names.

        Not the scopes that the toolkit knows: clients ask for all that stand in the metadata, and the toolkit's may
        be for anything. What a server wants is the server's to say.
        """
        from oauth2_provider.settings import oauth2_settings  # noqa: PLC0415 - optional

        servers = oauth2_settings.oauth2_resource_authorization_servers(request)
        return {"authorization_servers": servers} if servers else None

    def check(self) -> Iterable[CheckMessage]:
        if not apps.is_installed(APP):
            yield Error(NOT_INSTALLED, hint=INSTALL, id="mcp_django.E007")

    @cached_property
    def _tokens(self) -> ModuleType:
        if not apps.is_installed(APP):
            raise ImproperlyConfigured(f"{NOT_INSTALLED} {INSTALL}")
        from mcp_django.auth import oauth_tokens  # noqa: PLC0415 - imports the toolkit, which is optional

        return oauth_tokens


def token_of(headers: Mapping[str, str]) -> str | None:
    """The token that a request carries in its header, the one place where one may be (Authorization, access token
    usage); None if it has none. Names of headers in lower case."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def principal_of(token: Token | None, resource: str) -> Principal:
    """Whom a token speaks for at a resource.

    Raises:
        AuthenticationFailed: it is not valid, or not for that resource.
    """
    if token is None or not token.holds():
        raise AuthenticationFailed(INVALID)
    if not is_among(resource, token.resource):
        raise AuthenticationFailed(NOT_FOR_THIS.format(resource=resource))
    return Principal(
        Principal.key_of(token.user_pk, token.client),
        token.user,
        token.client,
        scopes=frozenset(token.scope.split()),
        can_step_up=True,
    )
