"""Credentials: how one request showed whose it is, and how the others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.urls import Resolver404, resolve
from django.utils.encoding import escape_uri_path

from mcp_django import jsonrpc, threads
from mcp_django.auth.authenticators import AuthenticationFailed, Authenticator
from mcp_django.auth.principals import ANONYMOUS, Principal
from mcp_django.http import HTTPRefusal, Request, refusal

if TYPE_CHECKING:
    from mcp_django.kernel import Kernel
    from mcp_django.server import MCPServer

METADATA_URL: Final = "mcp_django_metadata"
METADATA_PATH: Final = ".well-known/oauth-protected-resource"  # RFC 9728, section 3


@dataclass(slots=True, frozen=True)
class Credentials:
    """What a request was recognised by.

    Args:
        authenticator: who recognised it; None for anonymous callers.
    """

    principal: Principal
    request: Request
    server: str
    authenticator: Authenticator | None = None

    async def still_hold(self) -> bool:
        """Whether the same request would be recognised as the same principal's now.

        Raises:
            StoreUnavailable: that could not be found out.
        """
        if self.authenticator is None:
            return True
        try:
            found = await self.authenticator.recognise(self.request.afresh(), self.server)
        except AuthenticationFailed:
            return False
        return found is not None and found.key == self.principal.key and not found.lacks(self.scopes)

    @property
    def scopes(self) -> frozenset[str]:
        return self.principal.scopes or frozenset()


async def identify(server: MCPServer, request: Request) -> Credentials:
    """Find out whose request this is.

    Raises:
        HTTPRefusal: 401, it shows no credentials that are valid here, and the server does not let everybody in; 403,
            they lack a scope that the server wants of everybody.
        StoreUnavailable: that could not be found out.
    """
    failed: AuthenticationFailed | None = None
    for authenticator in server.authenticators:
        if not authenticator.concerns(request.headers):
            continue
        try:
            principal = await authenticator.recognise(request, server.name)
        except AuthenticationFailed as error:
            failed = failed or error
            continue
        if principal is not None:
            if missing := principal.lacks(server.scopes):
                raise insufficient_scope(server, request, principal, missing)
            return Credentials(principal, request, server.name, authenticator)
    # Credentials that are wrong are never taken for none: who lost theirs is to be told.
    if failed is not None or not server.is_public or server.scopes:
        raise unauthorized(server, request, failed)
    return Credentials(ANONYMOUS, request, server.name)


def unauthorized(server: MCPServer, request: Request, failed: AuthenticationFailed | None) -> HTTPRefusal:
    """401 with a challenge for each way to come in (RFC 6750, section 3; RFC 9728, section 5.1)."""
    if failed is not None:
        text, error = str(failed) or "The credentials are not valid here.", {"error": "invalid_token"}
    elif not server.authenticators:
        # By the setting's name, for the developer whose first request this is.
        text, error = (
            "This server lets nobody in: it has no authenticators. Name some in MCP_DJANGO_AUTHENTICATORS or in its "
            "authenticators=, or mcp_django.auth.public to let everybody in.",
            {},
        )
    else:
        text, error = "Authentication is required.", {}
    if error:
        error["error_description"] = text
    return refusal(401, jsonrpc.INVALID_REQUEST, text, WWW_Authenticate=", ".join(challenges(server, request, error)))


def insufficient_scope(
    server: MCPServer, request: Request, principal: Principal, missing: frozenset[str]
) -> HTTPRefusal:
    """403: the credentials are valid, and lack scopes (RFC 6750, section 3.1; Authorization, scope challenge
    handling). The client is told all that it needs, those that it has included, since a new token has none of them
    by itself."""
    wanted = " ".join(sorted((principal.scopes or frozenset()) | missing))
    text = lacking(missing)
    error = {"error": "insufficient_scope", "error_description": text, "scope": wanted}
    return refusal(403, jsonrpc.INVALID_REQUEST, text, WWW_Authenticate=", ".join(challenges(server, request, error)))


def lacking(missing: frozenset[str]) -> str:
    """What is said of credentials that lack scopes."""
    return f"This needs the scopes {', '.join(sorted(missing))}, which the credentials do not have."


async def check_scopes(kernel: Kernel, principal: Principal, request: Request, message: jsonrpc.Request) -> None:
    """See that the credentials have the scopes that a request needs.

    Raises:
        HTTPRefusal: 403, they do not, and the client could get them.
        MCPError: who is offered what it asks for could not be found out.
    """
    if not kernel.offers.have_scopes(principal):
        return
    missing = await threads.start(lambda: kernel.missing_scopes(principal, message.method, message.params))
    if missing:
        raise insufficient_scope(kernel.owner, request, principal, missing)


def challenges(server: MCPServer, request: Request, error: Mapping[str, str]) -> list[str]:
    """The challenges that a refusal carries: one for each scheme that the server's authenticators take."""
    schemes = dict.fromkeys(authenticator.scheme for authenticator in server.authenticators if authenticator.scheme)
    bearer: dict[str, str] = dict(error)
    if server.scopes and "scope" not in bearer:
        bearer["scope"] = " ".join(sorted(server.scopes))
    if url := metadata_url(server, request):
        bearer["resource_metadata"] = url
    # RFC 9110, 15.5.2: a 401 has at least one.
    return [
        f"Bearer {parameters(bearer)}".rstrip() if scheme == "Bearer" else f"{scheme} {parameters({'realm': 'MCP'})}"
        for scheme in schemes or ["Bearer"]
    ]


def parameters(values: Mapping[str, str]) -> str:
    """Parameters of a challenge, quoted (RFC 9110, 5.6.4)."""
    return ", ".join(f'{name}="{quoted(value)}"' for name, value in values.items())


def quoted(value: str) -> str:
    """A text as it stands between quotes in a header."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in value)
    return printable.replace("\\", "\\\\").replace('"', '\\"')


def metadata_of(server: MCPServer, request: Any) -> dict[str, Any] | None:
    """What a server's authenticators say of their authorization servers, together; None if they have none."""
    found: dict[str, Any] = {}
    for authenticator in server.authenticators:
        for name, value in (authenticator.metadata(request) or {}).items():
            found[name] = list(dict.fromkeys([*found.get(name, []), *value])) if isinstance(value, list) else value
    return found or None


def metadata_url(server: MCPServer, request: Request) -> str | None:
    """Where the metadata of this request's endpoint are; None if the server has none or the project does not serve
    them."""
    place = f"{METADATA_PATH}/{endpoint_path(request.django)}"
    if metadata_of(server, request.django) is None or not is_metadata(place):
        return None
    return resource_url(request.django, place)


def is_metadata(place: str) -> bool:
    """Whether the project serves our metadata at a path (without a slash at its beginning).

    Found by the path and not by a name: clients look at the root and nowhere else, while the URLs may be included
    under a prefix and under any namespace as well, and another app's may stand before them.
    """
    try:
        return resolve(f"/{place}").url_name == METADATA_URL
    except Resolver404:
        return False


def endpoint_path(request: Any) -> str:
    """A request's path within the project, without slashes at its ends: one endpoint, one name."""
    return str(request.path_info).strip("/")


def resource_url(request: Any, path: str | None = None) -> str:
    """The URL of an endpoint, by which clients and tokens name it (RFC 8707, section 2).

    Args:
        path: within the project, without a slash at its beginning; the request's own by default.
    """
    place = endpoint_path(request) if path is None else path
    prefix = (settings.FORCE_SCRIPT_NAME or request.META.get("SCRIPT_NAME") or "").rstrip("/")
    return str(request.build_absolute_uri(escape_uri_path(f"{prefix}/{place}")))
