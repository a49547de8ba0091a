"""Live sessions: what this process holds in memory of the sessions it serves.

Memory is a cache. An entry may be dropped at any moment, since the next request restores the session.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING

from django.utils import timezone
from mcp_types import ClientCapabilities, Implementation, InitializeRequestParams

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import SessionNotFound
from mcp_django.handlers import Handler, RestoreMarker
from mcp_django.state import State
from mcp_django.store import SessionRecord, SessionStore

if TYPE_CHECKING:
    from mcp_django.session_calls import SessionCall


class LiveSession:
    """A session as this process holds it: what a call needs, ready to use."""

    __slots__ = (
        "_store",
        "calls",
        "client_params",
        "digest",
        "epoch",
        "handlers",
        "initialized",
        "log_level",
        "marker",
        "principal",
        "protocol_version",
        "streams",
        "subscriptions",
        "used",
        "watched_epoch",
    )

    def __init__(self, store: SessionStore, record: SessionRecord, client_params: InitializeRequestParams) -> None:
        self._store = store
        self.digest = record.digest
        self.client_params = client_params
        self.protocol_version = record.protocol_version
        self.principal = record.principal
        self.handlers: dict[type[Handler], Handler] = {}
        self.marker: RestoreMarker | None = None
        self.calls: set[SessionCall] = set()
        self.streams = 0
        """How many connections on its streams are open here."""
        self.used = monotonic()
        self.watched_epoch = record.epoch
        self.refresh(record)

    def refresh(self, record: SessionRecord) -> None:
        """Take over what other processes may have changed."""
        self.epoch = record.epoch
        self.initialized = record.initialized_at is not None
        self.log_level = record.log_level
        self.subscriptions = frozenset(json.loads(record.subscriptions_json))

    @property
    def capabilities(self) -> ClientCapabilities:
        """What the client declared in ``initialize``."""
        return self.client_params.capabilities

    @property
    def client_info(self) -> Implementation:
        """The client's name and version as it gave them in ``initialize``."""
        return self.client_params.client_info

    @property
    def state(self) -> State:
        """The session's durable state."""
        return State(self._store, self.digest)

    async def mark_initialized(self) -> None:
        """``notifications/initialized`` has come.

        Raises:
            SessionNotFound: the session has ended.
        """
        if not await self._store.mark_initialized(self.digest, timezone.now()):
            raise SessionNotFound

    async def set_log_level(self, level: str) -> None:
        """The client chose the least level of log messages that it wants.

        Raises:
            SessionNotFound: the session has ended.
        """
        if not await self._store.set_log_level(self.digest, level):
            raise SessionNotFound
        self.log_level = level

    async def change_subscription(self, uri: str, *, subscribed: bool) -> None:
        """The client wants to hear of a resource, or no longer.

        Raises:
            SessionNotFound: the session has ended.
            HandlerError: it has too many subscriptions.
        """
        if not await self._store.change_subscription(self.digest, uri, subscribed):
            raise SessionNotFound
        self.subscriptions = self.subscriptions | {uri} if subscribed else self.subscriptions - {uri}

    def cancel(self, request_id: jsonrpc.RequestId | None) -> bool:
        """Cancel the running call with this id. False if it does not run in this process."""
        found = [call for call in list(self.calls) if jsonrpc.same_id(call.id, request_id)]
        for call in found:
            call.cancel()
        return bool(found)


class LiveSessions:
    """The bounded cache of live sessions of this process, least recently used first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, LiveSession] = OrderedDict()
        self._restores: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, digest: str) -> LiveSession | None:
        """The live session, moved to the fresh end."""
        with self._lock:
            session = self._sessions.get(digest)
            if session is not None:
                self._sessions.move_to_end(digest)
                session.used = monotonic()
            return session

    def add(self, session: LiveSession) -> None:
        """Make a session visible to requests, and drop what is idle or too much."""
        with self._lock:
            self._sessions[session.digest] = session
            self._evict()

    def drop(self, digest: str) -> LiveSession | None:
        """Forget a session."""
        with self._lock:
            return self._sessions.pop(digest, None)

    def clear(self) -> None:
        """Forget all sessions, as a restart does."""
        with self._lock:
            self._sessions.clear()

    def restores(self, digest: str) -> int:
        """How often this process has restored the session; remembered for the most recent ones."""
        return self._restores.get(digest, 0)

    def count_restore(self, digest: str) -> None:
        """Note one more restore."""
        with self._lock:
            self._restores[digest] = self._restores.pop(digest, 0) + 1
            while len(self._restores) > 2 * mcp_settings.LIVE_SESSIONS:
                self._restores.popitem(last=False)

    def _evict(self) -> None:
        idle_since = monotonic() - mcp_settings.LIVE_IDLE.total_seconds()
        for _ in range(len(self._sessions)):
            digest, session = next(iter(self._sessions.items()))
            if len(self._sessions) <= mcp_settings.LIVE_SESSIONS and session.used >= idle_since:
                return
            if session.calls or session.streams:
                # A session at work is not evicted: its calls and connections hold on to the instance.
                self._sessions.move_to_end(digest)
            else:
                del self._sessions[digest]
