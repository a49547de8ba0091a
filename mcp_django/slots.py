"""Slots: how many calls a process runs at once."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from mcp.shared.exceptions import MCPError

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings

_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def taken() -> asyncio.Semaphore:
    """The slots of this event loop, with one taken; whoever took it releases it.

    Raises:
        MCPError: none became free in ``MCP_DJANGO_CALL_QUEUE_TIMEOUT``.
    """
    loop = asyncio.get_running_loop()
    slots = _by_loop.get(loop)
    if slots is None:
        slots = _by_loop[loop] = asyncio.Semaphore(mcp_settings.MAX_CONCURRENT_CALLS)
    if slots.locked():
        await _wait(slots)
    else:
        await slots.acquire()
    return slots


async def _wait(slots: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(mcp_settings.CALL_QUEUE_TIMEOUT):
            await slots.acquire()
    except TimeoutError:
        raise MCPError(
            jsonrpc.SERVER_BUSY, "The server is busy with as many calls as it may run at once. Try again later."
        ) from None
