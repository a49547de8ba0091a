"""Limits: how much one caller may do in a while.

A caller is a principal, or for anonymous ones the address that they come from. What is counted here is counted in each
process by itself; what is kept in the database is limited there (see :class:`mcp_django.batches.Create`).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from functools import lru_cache
from time import monotonic
from typing import Final

from django.utils.crypto import salted_hmac
from mcp.shared.exceptions import MCPError

from mcp_django import addresses, jsonrpc
from mcp_django.auth import Principal
from mcp_django.conf import mcp_settings
from mcp_django.http import HTTPRefusal, Request, refusal

CALLS: Final = frozenset({"tools/call", "resources/read", "prompts/get"})
COMPLETIONS: Final = frozenset({"completion/complete"})
MAX_CALLERS: Final = 20_000


class Rate:
    """How often each of many callers did something lately: a bucket each, that fills with time (token bucket).

    A minute's worth may come at once. The callers that came last are remembered; whoever is forgotten begins anew.
    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, per_minute: int) -> float:
        """Count one more. 0 if the caller may do it, else in how many seconds."""
        now = monotonic()
        with self._lock:
            left, at = self._buckets.pop(caller, (float(per_minute), now))
            left = min(per_minute, left + (now - at) * per_minute / 60)
            allowed = left >= 1
            self._buckets[caller] = (left - 1 if allowed else left, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / per_minute

    def clear(self) -> None:
        """Forget all callers."""
        with self._lock:
            self._buckets.clear()


initializes: Final = Rate()
calls: Final = Rate()
completions: Final = Rate()


def caller_of(principal: Principal, request: Request) -> str:
    """For whom a request counts."""
    return f"address {addresses.caller_of(request)}" if principal.is_anonymous else principal.key


@lru_cache(maxsize=4096)
def quota_of(caller: str) -> str:
    """A caller as it is written to the database, which need not know addresses."""
    return salted_hmac("mcp_django.limits", caller, algorithm="sha256").hexdigest()


def check_initialize(principal: Principal, request: Request) -> None:
    """Count an ``initialize``.

    Raises:
        HTTPRefusal: 429, there were too many.
    """
    limit = mcp_settings.MAX_INITIALIZES_PER_MINUTE
    if limit is None:
        return
    if wait := initializes.take(caller_of(principal, request), limit):
        raise refusal(
            429,
            jsonrpc.RATE_LIMITED,
            f"Too many sessions were opened lately: {limit} a minute are allowed "
            "(MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE). Go on with one that is open, or try again later.",
            Retry_After=str(math.ceil(wait)),
        )


def check_call(principal: Principal, request: Request, method: str) -> None:
    """Count a request (server/tools and server/utilities/completion, security considerations: servers must limit the
    rate of both).

    Raises:
        MCPError: there were too many of its kind.
    """
    if method in CALLS:
        rate, limit, setting = calls, mcp_settings.MAX_CALLS_PER_MINUTE, "MCP_DJANGO_MAX_CALLS_PER_MINUTE"
    elif method in COMPLETIONS:
        rate, limit = completions, mcp_settings.MAX_COMPLETIONS_PER_MINUTE
        setting = "MCP_DJANGO_MAX_COMPLETIONS_PER_MINUTE"
    else:
        return
    if limit is None:
        return
    if wait := rate.take(caller_of(principal, request), limit):
        seconds = math.ceil(wait)
        raise MCPError(
            jsonrpc.RATE_LIMITED,
            f"Too many requests lately: {limit} a minute are allowed ({setting}). Try again in {seconds} s.",
            {"retryAfter": seconds},
        )


def too_many_sessions() -> HTTPRefusal:
    """429: the caller has as many sessions as it may, and all are at work."""
    return refusal(
        429,
        jsonrpc.RATE_LIMITED,
        "You have as many sessions as you may, and all of them are in use "
        "(MCP_DJANGO_MAX_PRINCIPAL_SESSIONS, for anonymous callers MCP_DJANGO_MAX_ADDRESS_SESSIONS). End one first.",
        Retry_After="60",
    )
