"""Resources: the URLs by which access tokens name the endpoints that they are for (RFC 8707), and when two are one."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.signals import setting_changed

from mcp_django.auth.credentials import resource_url
from mcp_django.http import Request

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_LENGTH: Final = 2048
MAX_REMEMBERED: Final = 1024

_remembered: dict[Hashable, str] = {}


def resource_of(request: Request) -> str:
    """The URL of a request's endpoint.

    Making Django's request for it costs as much as a tenth of a call, so what was found is remembered, by all that it
    was made of. Never for a request without Host, which no client sends.
    """
    headers = request.headers
    if request.target is None or "host" not in headers:
        return resource_url(request.django)
    proxied = settings.SECURE_PROXY_SSL_HEADER
    key = (
        request.target,
        headers["host"],
        headers.get("x-forwarded-host"),
        headers.get("x-forwarded-port"),
        headers.get(proxied[0].removeprefix("HTTP_").replace("_", "-").lower()) if proxied else None,
    )
    known = _remembered.get(key)
    if known is None:
        known = resource_url(request.django)
        if len(_remembered) < MAX_REMEMBERED:
            _remembered[key] = known
    return known


def is_among(resource: str, named: Any) -> bool:
    """Whether a token's resources name this endpoint.

    One by one and in full: a token for one endpoint is none for another under the same host, so a resource that
    merely begins alike does not count. No resource at all counts for none: whoever issued such a token thought of
    no server, and this one must not take what was not meant for it (Authorization, token handling).

    Args:
        named: what the token says, as it was stored.
    """
    if not isinstance(named, list) or not named:
        return False
    wanted = canonical(resource)
    return wanted is not None and any(isinstance(name, str) and canonical(name) == wanted for name in named)


@lru_cache(maxsize=1024)
def canonical(url: str) -> tuple[str, str, int, str] | None:
    """A URL as it is compared (RFC 3986, 6.2): scheme and host in lower case, the port said, no trailing slash. None
    if it names no endpoint: another scheme, a user, a query or a fragment in it."""
    if len(url) > MAX_LENGTH or not url.isascii() or not url.isprintable() or set(url) & set(" ?#\\"):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return scheme, parts.hostname.lower(), port or DEFAULT_PORTS[scheme], parts.path.removesuffix("/")


def _forget(**kwargs: Any) -> None:
    _remembered.clear()


setting_changed.connect(_forget, dispatch_uid="mcp_django.auth.resources")
