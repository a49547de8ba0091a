"""Connections: open responses whose frames leave as there is something to send.

A connection is an iterator over frames. It holds no database connection and no thread while it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from mcp_django import sse
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StoreUnavailable
from mcp_django.sse import Last

if TYPE_CHECKING:
    from mcp_django.auth import Credentials

RETRY_SECONDS: Final = 0.25

Ending = Literal["taken over", "session ended", "revoked", "polling", "shutdown"]
# After these the client is still to have what there is; after the others it is not.
GENTLE: Final = (None, "polling", "shutdown")


held: set[Connection] = set()
"""The open connections of this process that somebody's credentials hold open."""


class Connection:
    """One event stream on its way to one client. What it carries, and what its beginning and end mean, is said by
    those who derive from it."""

    __slots__ = (
        "__weakref__",
        "_loop",
        "_timer",
        "_waiter",
        "_woken",
        "_written_at",
        "checked_at",
        "credentials",
        "ending",
    )

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self.credentials: Credentials | None = None
        """By what its reader was recognised; None for anonymous ones."""
        self.checked_at = monotonic()
        """When the credentials were last found to hold."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._written_at = 0.0

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The bytes to send, until the stream or the connection is to end. Nothing is acquired before the first is
        asked for, since an iterator that never began never ends either."""
        self._loop = asyncio.get_running_loop()
        if self.credentials is not None:
            held.add(self)
        self._attach()
        self._timer = self._loop.call_later(mcp_settings.KEEP_ALIVE, self._keep_alive)
        try:
            await self._begin()
            greeting = self._greeting()
            while (chunk := await self._next(greeting)) is not None:
                self._written_at = monotonic()
                if self.done:
                    yield Last(chunk)
                    return
                yield chunk
                greeting = b""
            if self.ending == "shutdown" and (farewell := self._farewell()):
                yield farewell
        finally:
            self._timer.cancel()
            held.discard(self)
            self._detach()

    def wake(self) -> None:
        """Look again. From any thread."""
        self._woken = True
        loop = self._loop
        if loop is None or self._waiter is None:
            return
        if loop is running_loop():
            self._set()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._set)

    def close(self, ending: Ending) -> None:
        """End the connection once what is under way is sent. From any thread."""
        if self.ending is None:
            self.ending = ending
            self.wake()

    @property
    def done(self) -> bool:
        """Whether all was read that will ever come."""
        return False

    # For those who derive

    def _attach(self) -> None:
        """The client begins to read."""

    def _detach(self) -> None:
        """The client is gone, or has it all."""

    async def _begin(self) -> None:
        """What is to be done before the first frame."""

    def _greeting(self) -> bytes:
        """What goes before everything else."""
        return b""

    async def _read(self) -> bytes:
        """The frames that there are to send now.

        Raises:
            StoreUnavailable: that is not known at the moment.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _read().")

    def _farewell(self) -> bytes:
        """What a client is told when the process ends before the stream does."""
        return b""

    # Waiting

    async def _next(self, greeting: bytes) -> bytes | None:
        """The next bytes, with ``greeting`` before them; None at the end."""
        while self.ending in GENTLE:
            self._woken = False
            if chunk := greeting + await self._read_if_possible():
                return chunk
            if self.ending is not None or self.done:
                return None
            if monotonic() - self._written_at >= mcp_settings.KEEP_ALIVE:
                return sse.KEEP_ALIVE
            await self._wait()
        return greeting or None

    async def _read_if_possible(self) -> bytes:
        """The next frames; none while the store is away, but a look again soon."""
        try:
            return await self._read()
        except StoreUnavailable:
            assert self._loop is not None
            self._loop.call_later(RETRY_SECONDS, self.wake)
            return b""

    async def _wait(self) -> None:
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        try:
            # Set before the waiter was there: the wake-up that came meanwhile.
            if not self._woken:
                await self._waiter
        finally:
            self._waiter = None

    def _set(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _keep_alive(self) -> None:
        assert self._loop is not None
        due = self._written_at + mcp_settings.KEEP_ALIVE - monotonic()
        if due <= 0:
            self.wake()
            due = mcp_settings.KEEP_ALIVE
        self._timer = self._loop.call_later(due, self._keep_alive)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
