"""The patrol: looks again at the credentials by which streams are held open, for as long as they are.

A request is recognised once, and its stream may live for days. One thread for each process asks the authenticators
again, together where they can answer together; a stream whose credentials no longer hold is closed, and its client
comes back to a 401. The call that feeds it goes on: it is its owner's, who may come with newer credentials.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import nullcontext
from time import monotonic
from typing import Final

from mcp_django import connections
from mcp_django.auth import Credentials
from mcp_django.background import BackgroundLoop, PerProcess
from mcp_django.conf import mcp_settings
from mcp_django.connections import Connection
from mcp_django.exceptions import StoreUnavailable
from mcp_django.lanes import inline

logger = logging.getLogger("mcp_django.auth")

# A thousand streams must not keep requests from being recognised, which happens in the same threads.
ALONE_AT_ONCE: Final = 2

_background = BackgroundLoop("mcp-django-patrol")
_started = PerProcess(threading.Event)


def hold(connection: Connection, credentials: Credentials) -> None:
    """Keep a connection open for as long as these credentials hold. Before its first frame."""
    connection.credentials = credentials
    started = _started.get()
    if not (started.is_set() or inline.enabled):
        started.set()
        _background.spawn(_run)


def stop() -> None:
    """End the thread."""
    _started.get().clear()
    _background.stop()


async def _run() -> None:
    while True:
        await asyncio.sleep(mcp_settings.POLL_INTERVAL)
        try:
            await look()
        except Exception:
            logger.exception("the patrol failed; it goes on")


async def look(*, at_all: bool = False) -> None:
    """Look at the credentials of those connections whose turn it is, or of all."""
    now = monotonic()
    turn = asyncio.Semaphore(ALONE_AT_ONCE)
    await asyncio.gather(*(_look_at(c, turn) for c in tuple(connections.held) if at_all or _is_due(c, now)))


def _is_due(connection: Connection, now: float) -> bool:
    credentials = connection.credentials
    assert credentials is not None
    assert credentials.authenticator is not None
    return now - connection.checked_at >= credentials.authenticator.recheck_every


async def _look_at(connection: Connection, turn: asyncio.Semaphore) -> None:
    credentials = connection.credentials
    assert credentials is not None
    assert credentials.authenticator is not None
    try:
        # Those that answer many questions at once are asked all of them; each other one takes a thread.
        async with turn if credentials.authenticator.recheck_every else nullcontext():
            connection.checked_at = monotonic()
            holds = await credentials.still_hold()
        if not holds:
            connection.close("revoked")
    except StoreUnavailable as error:
        # Nobody is sent away because the database is.
        logger.debug("credentials could not be looked at: %s", error)
    except Exception:
        logger.exception("an authenticator failed; the stream that it let in is closed")
        connection.close("revoked")
