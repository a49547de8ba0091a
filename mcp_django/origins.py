"""Where a request comes from: ``Host``, ``Origin``, and what a browser page of another origin may do (CORS).

By Django's own settings, ``ALLOWED_HOSTS`` and ``CSRF_TRUSTED_ORIGINS``, and one list for browser clients.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.http import METHODS, Request, Response, refusal

# Wire rule 8: a browser client may send these and must be able to read those.
CORS_REQUEST_HEADERS: Final = (
    "Accept, Authorization, Content-Type, Last-Event-ID, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id"
)
CORS_RESPONSE_HEADERS: Final = "Mcp-Session-Id, MCP-Protocol-Version, Retry-After, WWW-Authenticate"
PARAM_HEADER: Final = re.compile(r"mcp-param-[!#$%&'*+.^_`|~0-9a-z-]{1,100}")


def check_host_and_origin(request: Request) -> str | None:
    """DNS rebinding and cross-site requests stop here (Streamable HTTP, security warning).

    Returns:
        The origin to name in CORS headers, or None for a request that no browser page sent.

    Raises:
        HTTPRefusal: 400 for a Host that ``ALLOWED_HOSTS`` does not name, 403 for a foreign Origin.
    """
    host = host_of(request)
    if request.repeated and "origin" in request.repeated:
        raise refusal(403, jsonrpc.INVALID_REQUEST, "The header Origin must be sent once.")
    origin = request.headers.get("origin")
    if origin is None:
        return None
    if not origin_allowed(origin, host, secure=scheme_of(request) == "https"):
        raise refusal(
            403,
            jsonrpc.INVALID_REQUEST,
            "This Origin is not allowed. Allow a web client's origin in MCP_DJANGO_ALLOWED_ORIGINS or "
            "CSRF_TRUSTED_ORIGINS.",
        )
    return origin


def host_of(request: Request) -> str:
    """The request's host, checked against ``ALLOWED_HOSTS`` as Django's ``get_host()`` does.

    Raises:
        HTTPRefusal: 400.
    """
    host = request.headers.get("host")
    if settings.USE_X_FORWARDED_HOST:
        host = request.headers.get("x-forwarded-host", host)
    if request.repeated and request.repeated & {"host", "x-forwarded-host"}:
        host = ""
    if host is None:
        # HTTP/1.0 and Django's test client send none; Django falls back to the server's own name as well.
        host = request.django.META.get("SERVER_NAME")
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]
    if host is None or not host_allowed(host, tuple(allowed)):
        raise refusal(400, jsonrpc.INVALID_REQUEST, "This Host is not allowed. Name it in ALLOWED_HOSTS.")
    return host


@lru_cache(maxsize=256)
def host_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a Host header names one of the allowed hosts; a malformed one does not."""
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


def scheme_of(request: Request) -> str:
    """``https`` or ``http``, with ``SECURE_PROXY_SSL_HEADER`` followed."""
    return request.django.scheme or "http"


def origin_allowed(origin: str, host: str, *, secure: bool) -> bool:
    """Whether a browser page of this origin may call: same origin, or named in one of the two settings.

    ``CSRF_TRUSTED_ORIGINS`` may hold wildcards for subdomains, as Django's CSRF check takes them.
    """
    if origin == f"{'https' if secure else 'http'}://{host}" or origin in mcp_settings.ALLOWED_ORIGINS:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        if trusted == origin:
            return True
        trusted_parts = urlsplit(trusted.replace("*", "", 1))
        wildcard = "*" in trusted
        if wildcard and trusted_parts.scheme == parts.scheme and is_same_domain(parts.netloc, trusted_parts.netloc):
            return True
    return False


def is_same_origin(request: Request) -> bool:
    """Whether no browser page of another origin has sent this, as far as the browser says (Fetch Metadata)."""
    origin = request.headers.get("origin")
    if origin is not None:
        return origin == f"{scheme_of(request)}://{host_of(request)}"
    return request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def add_cors(response: Response, origin: str) -> None:
    """Let the page at ``origin`` read the response, the session id included."""
    response.headers += [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", CORS_RESPONSE_HEADERS),
        ("Vary", "Origin"),
    ]


def options_response(request: Request) -> Response:
    """The answer to OPTIONS, a CORS preflight or not; it comes before any authentication (Fetch, CORS preflight)."""
    methods = ", ".join(METHODS)
    asked = request.headers.get("access-control-request-headers", "").split(",")
    # Their names are the tools' own (SEP-2243), and no wildcard stands for them beside credentials.
    mirrored = sorted({name for item in asked if PARAM_HEADER.fullmatch(name := item.strip().lower())})
    return Response(
        204,
        headers=[
            ("Allow", methods),
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", ", ".join([CORS_REQUEST_HEADERS, *mirrored])),
            ("Access-Control-Max-Age", "3600"),
        ],
    )
