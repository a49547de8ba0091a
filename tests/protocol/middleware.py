"""Middleware that projects have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware, sync_only_middleware


@async_only_middleware
def reads_body(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]],
) -> Callable[[HttpRequest], Awaitable[HttpResponseBase]]:
    """Has a look at the body first, as audit logs do."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        assert request.body is not None
        return await get_response(request)

    return middleware


@sync_only_middleware
def is_sync(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Knows nothing of async."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request)

    return middleware
