"""Addresses: from where a request comes, behind proxies too. Only limits of anonymous callers go by them."""

from __future__ import annotations

import logging
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from mcp_django.conf import mcp_settings

if TYPE_CHECKING:
    from mcp_django.http import Request

logger = logging.getLogger("mcp_django.addresses")

UNIX: Final = "unix"
FORWARDED: Final = ("x-forwarded-for", "forwarded")
# One customer has a network of addresses, and one address is a customer's at most (RFC 6177).
CUSTOMER_PREFIX: Final = 64
MAX_HOPS: Final = 20
# RFC 1918, RFC 4193, RFC 6598, and loopback.
NEAR: Final = tuple(
    map(
        ip_network, ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
    )
)

Address = IPv4Address | IPv6Address


def caller_of(request: Request) -> str:
    """The address that a request counts for: an IPv4 address, or the network of an IPv6 address.

    ``X-Forwarded-For`` is read from its end, as far back as ``MCP_DJANGO_TRUSTED_PROXIES`` have written it: what
    stands before that, anybody may have.
    """
    trusted = tuple(mcp_settings.TRUSTED_PROXIES)
    if not trusted:
        if is_near(request.peer) and any(name in request.headers for name in FORWARDED):
            _warn_once()
        return counted(request.peer)
    address, hops = request.peer, request.headers.get("x-forwarded-for", "").split(",")
    for hop in reversed(hops[-MAX_HOPS:]):
        if not is_trusted(address, trusted) or not (hop := hop.strip()):
            break
        address = hop
    return counted(address)


@lru_cache(maxsize=4096)
def counted(address: str) -> str:
    """An address as callers are told apart by it; what is none counts as itself, cut to a bearable length."""
    found = parsed(address)
    if found is None:
        return address[:64]
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, CUSTOMER_PREFIX), strict=False))
    return str(found)


@lru_cache(maxsize=4096)
def is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    """Whether an address is that of one of the proxies; those of a Unix socket have none."""
    if not address:
        return UNIX in trusted
    found = parsed(address)
    return found is not None and any(found in ip_network(proxy) for proxy in trusted if proxy != UNIX)


@lru_cache(maxsize=4096)
def is_near(address: str) -> bool:
    """Whether an address is of this machine or its private network, as those of proxies are."""
    found = parsed(address)
    return not address or (found is not None and any(found in network for network in NEAR))


def parsed(text: str) -> Address | None:
    """An address from its text, with or without a port as some proxies add it; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=1)
def _warn_once() -> None:
    logger.warning(
        "Requests come through a proxy (they carry X-Forwarded-For or Forwarded, and come from this machine or its "
        "private network), and MCP_DJANGO_TRUSTED_PROXIES does not name it: all anonymous callers count as one."
    )
