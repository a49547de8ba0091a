"""Notices: what changed, told to every client that should hear it, from wherever it changed.

Callable from views, tasks, commands and signals, in sync and in async code. A notice is one row that is raised, never
one per session; each process with listeners finds it there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction

from mcp_django import jsonrpc, visits
from mcp_django.answers import payload_of
from mcp_django.connections import running_loop
from mcp_django.memory_streams import MemoryStreams
from mcp_django.store import ORMStore, session_store
from mcp_django.stream_batches import Post, Raise
from mcp_django.streams import here, standalone_id
from mcp_django.visits import Item
from mcp_django.wakeups import Wakeups

logger = logging.getLogger("mcp_django.streams")


def notify(server: str, kind: str, uri: str = "", *, using: str | None = None) -> None:
    """Raise a notice once the transaction around the caller, if there is one, is committed.

    A notice is advice: if the database refuses it, that is logged and nothing else. In async code it is raised soon,
    and nobody waits.

    Args:
        kind: ``tools``, ``prompts`` or ``resources`` for a list, ``resource`` for the one at ``uri``.
        using: the database whose commit is waited for first, if it is another than the sessions'.
    """
    after_commit(Raise(server, kind, uri), f"topics:{server}", using)


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


def after_commit(item: Raise | Post, address: str, using: str | None = None) -> None:
    """Write ``item`` after the caller's transaction and give the hint."""
    store = session_store()
    if not isinstance(store, ORMStore):
        tell = functools.partial(tell_in_memory, item, address)
        if using is None:
            tell()
        else:
            transaction.on_commit(tell, using=using, robust=True)
    elif running_loop() is not None:
        # The caller's thread must not wait, and its transaction, if any, is another thread's.
        store.writes.post(item, lambda: hint(address))
    else:
        gather(item, address, using or visits.alias())


def tell_in_memory(item: Raise | Post, address: str) -> None:
    """Tell the sessions of this process, which are kept in memory."""
    for streams in list(here):
        assert isinstance(streams.store, MemoryStreams)
        streams.store.take(item)
    hint(address)


def gather(item: Raise | Post, address: str, using: str) -> None:
    """Have ``item`` written after the commit of ``using``, together with what was gathered just before it."""
    connection = transaction.get_connection(using)
    if connection.run_on_commit:
        savepoints, hook, _robust = connection.run_on_commit[-1]
        # What another savepoint gathered may be rolled back without this, or this without that.
        if isinstance(hook, Gathered) and savepoints == set(connection.savepoint_ids):
            hook.items.append(item)
            hook.addresses.add(address)
            return
    transaction.on_commit(Gathered(item, address), using=using, robust=True)


class Gathered:
    """What one transaction tells: thousands of changed rows are one commit more, not thousands."""

    def __init__(self, item: Raise | Post, address: str) -> None:
        self.items: list[Raise | Post] = [item]
        self.addresses = {address}

    def __call__(self) -> None:
        # The sessions' own database may still be in a transaction.
        transaction.on_commit(self.write, using=visits.alias(), robust=True)

    def write(self) -> None:
        """Write now, on this thread's connection."""
        try:
            visits.write(self.items)
        except DatabaseError:
            # One of them may be to blame.
            for item in self.items:
                write_alone(item)
        for address in self.addresses:
            hint(address)


def write_alone(item: Item) -> None:
    """Write one, or log that it could not be."""
    try:
        visits.write([item])
    except DatabaseError:
        logger.exception("a notice could not be written")


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


@functools.lru_cache(maxsize=1)
def _own_sender() -> Wakeups:
    return Wakeups(lambda addresses: None)
