"""Notices: what changed, told to every client that should hear it, from wherever it changed.

Callable from views, tasks, commands and signals, in sync and in async code. A notice is one row that is raised, never
one per session; each process with listeners finds it there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction

from mcp_django import jsonrpc, visits
from mcp_django.cursors import running_loop
from mcp_django.memory_streams import MemoryStreams
from mcp_django.store import ORMStore, session_store
from mcp_django.stream_batches import Post, Raise
from mcp_django.streams import here, payload_of, standalone_id
from mcp_django.visits import Item
from mcp_django.wakeups import Wakeups

logger = logging.getLogger("mcp_django.streams")


def notify(server: str, kind: str, uri: str = "") -> None:
    """Raise a notice once the transaction around the caller, if there is one, is committed.

    A notice is advice: if the database refuses it, that is logged and nothing else. In async code it is raised soon,
    and nobody waits.

    Args:
        kind: ``tools``, ``prompts`` or ``resources`` for a list, ``resource`` for the one at ``uri``.
    """
    after_commit(Raise(server, kind, uri), f"topics:{server}")


async def anotify(server: str, kind: str, uri: str = "") -> None:
    """See :func:`notify`; the notice is committed on return."""
    await sync_to_async(notify)(server, kind, uri)


def notify_session(server: str, session: str, method: str, params: Mapping[str, Any] | None = None) -> None:
    """Send one session a notification on its standalone stream; kept until a connection of it reads.

    Args:
        session: the session's digest. A session that has ended is told nothing.

    Raises:
        EventTooLarge: the message is too large.
        TypeError, ValueError: ``params`` is not JSON.
    """
    payload = payload_of(jsonrpc.notification(method, params))
    stream = standalone_id(session)
    after_commit(Post(stream, session, payload, server), f"stream:{stream:x}")


async def anotify_session(server: str, session: str, method: str, params: Mapping[str, Any] | None = None) -> None:
    """See :func:`notify_session`."""
    await sync_to_async(notify_session)(server, session, method, params)


def after_commit(item: Raise | Post, address: str) -> None:
    """Write ``item`` after the caller's transaction and give the hint."""
    store = session_store()
    if not isinstance(store, ORMStore):
        for streams in list(here):
            assert isinstance(streams.store, MemoryStreams)
            streams.store.take(item)
        hint(address)
    elif running_loop() is not None:
        # The caller's thread must not wait, and its transaction, if any, is another thread's.
        store.writes.post(item, lambda: hint(address))
    else:
        transaction.on_commit(lambda: write(item, address))


def write(item: Item, address: str) -> None:
    """Write now, on this thread's connection."""
    try:
        visits.write([item])
    except DatabaseError:
        logger.exception("a notice could not be written")
        return
    hint(address)


def hint(address: str) -> None:
    """Have every process look."""
    for streams in list(here):
        streams.watcher.look_soon(address)
    sender().send(address)


def sender() -> Wakeups:
    """What hints leave by: that of this process's streams if it has any."""
    for streams in list(here):
        return streams.wakeups
    return _own_sender()


@lru_cache(maxsize=1)
def _own_sender() -> Wakeups:
    return Wakeups(lambda addresses: None)
