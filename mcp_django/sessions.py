"""Sessions: opened, found again, restored, ended.

The store is the truth: every request is checked against it, and what is in memory only saves the handshake.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import uuid
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.dispatch import Signal
from django.utils import timezone
from mcp_types import InitializeRequestParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

from mcp_django import handshake, jsonrpc, limits, signals, threads
from mcp_django.auth import Principal
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import SessionNotFound, StoreUnavailable
from mcp_django.handlers import RestoreMarker, RestoreReason
from mcp_django.live import LiveSession, LiveSessions
from mcp_django.models import digest_of
from mcp_django.processes import this_process
from mcp_django.session_calls import SessionCall
from mcp_django.store import SessionHead, SessionRecord, SessionStore, session_store
from mcp_django.streams import Streams

if TYPE_CHECKING:
    from mcp_django.exchanges import Exchange
    from mcp_django.http import Request
    from mcp_django.kernel import Kernel

logger = logging.getLogger("mcp_django.sessions")

FoundT = TypeVar("FoundT", SessionHead, SessionRecord)


@dataclass(slots=True)
class Visit:
    """One request's way to its session: who asks, on which server, with which id."""

    kernel: Kernel
    session_id: str = field(repr=False)
    principal: Principal
    http: Request

    @property
    def server(self) -> str:
        """The name under which the server's sessions are stored."""
        return self.kernel.owner.name

    def hook(self, session: LiveSession) -> SessionCall:
        """What hooks and ``initialize`` run as: a call without a channel to the client."""
        return SessionCall(self.server, session, self.session_id, self.principal, self.http)

    def start(self, session: LiveSession, request: jsonrpc.Request, exchange: Exchange, place: int) -> None:
        """Start the call that answers a request at its place of an exchange."""
        call = SessionCall(self.server, session, self.session_id, self.principal, self.http, request, exchange, place)
        call.start(lambda: self.kernel.respond(call, request.method, request.params))


class Sessions:
    """Opens, finds, restores and ends sessions; one per process."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.streams = Streams(store)
        self.live = LiveSessions()
        self._lock = threading.Lock()
        self._restoring: dict[str, Future[LiveSession]] = {}
        self._gone: deque[uuid.UUID] = deque(maxlen=64)

    async def open(
        self, kernel: Kernel, principal: Principal, http: Request, request: jsonrpc.Request
    ) -> tuple[str, dict[str, Any]]:
        """Serve an ``initialize`` request.

        Returns:
            the new session's id and the result for the client. The row is committed by then.

        Raises:
            StoreUnavailable, TooManySessions: no session was made.
            MCPError, ValidationError: the params are wrong, or a handler's hook refused.
        """
        visit = Visit(kernel, secrets.token_urlsafe(32), principal, http)
        return await threads.start(lambda: self._open(visit, request))

    async def _open(self, visit: Visit, request: jsonrpc.Request) -> tuple[str, dict[str, Any]]:
        params = request.params or {}
        client_params = parse_initialize_params(jsonrpc.canonical(params))
        record = new_record(visit, params, client_params)
        session = LiveSession(self.store, record, client_params)
        call = visit.hook(session)
        result = await handshake.initialize(visit.kernel, call, params)
        await self.store.create(record)
        try:
            await handshake.open_handlers(visit.kernel, call, None)
        except BaseException:
            await self.store.end(session.digest, "a handler refused the session", "terminated")
            raise
        self.live.add(session)
        await announce(signals.session_opened, visit, session=session)
        return visit.session_id, result

    async def find(self, visit: Visit) -> LiveSession:
        """The live session that a request names, restored if this process does not have it.

        Raises:
            SessionNotFound: it is unknown, ended, expired, somebody else's, or another server's.
            StoreUnavailable: that could not be found out.
        """
        digest = digest_of(visit.session_id)
        session = self.live.get(digest)
        # The head alone at first: what is somebody else's is to take no longer than what nobody has.
        head = self._usable(visit, digest, await self.store.head(digest))
        if session is None:
            record = self._usable(visit, digest, await self.store.load(digest))
            return await self._restored(record, visit)
        if session.epoch < head.epoch:
            changed = await self.store.load(digest)
            if changed is not None:
                session.refresh(changed)
        return session

    def _usable(self, visit: Visit, digest: str, found: FoundT | None) -> FoundT:
        """What the store has of a session, if it is one that this visitor may use here."""
        now = timezone.now()
        if found is None or not head_of(found).is_live(now):
            self.live.drop(digest)
            raise SessionNotFound
        head = head_of(found)
        # Compared here and not in the query: some collations take "Bob" for "bob ".
        if head.server != visit.server or head.principal != visit.principal.key:
            raise SessionNotFound
        expires_at = now + mcp_settings.SESSION_TTL
        if expires_at - head.expires_at >= mcp_settings.TOUCH_RESOLUTION:
            self.store.touch(digest, now, expires_at)
        return found

    async def _restored(self, record: SessionRecord, visit: Visit) -> LiveSession:
        """Restore once, however many requests ask for it at once; all get the same session or the same error."""
        digest = record.digest
        with self._lock:
            if (session := self.live.get(digest)) is not None:
                return session
            future = self._restoring.get(digest)
            first = future is None
            if future is None:
                future = self._restoring[digest] = Future()
        if first:
            task = threads.start(lambda: self._restore(record, visit))
            task.add_done_callback(lambda task: self._restore_done(digest, future, task))
        # Shielded, since cancelling one waiter would cancel the future of all.
        return await asyncio.shield(asyncio.wrap_future(future))

    def _restore_done(self, digest: str, future: Future[LiveSession], task: asyncio.Task[LiveSession]) -> None:
        error = StoreUnavailable("The restore was interrupted.") if task.cancelled() else task.exception()
        with self._lock:
            # Visible and no longer restoring in one step: no request finds neither.
            if error is None:
                self.live.add(task.result())
            del self._restoring[digest]
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(error)

    async def _restore(self, record: SessionRecord, visit: Visit) -> LiveSession:
        digest = record.digest
        try:
            client_params = parse_initialize_params(record.initialize_params_json)
        except ValidationError:
            logger.error("session=%s ended: its initialize params no longer parse", digest[:12])
            await self.store.end(digest, "initialize params no longer parse", "terminated")
            raise SessionNotFound from None
        session = LiveSession(self.store, record, client_params)
        session.marker = marker = RestoreMarker(
            session_id=visit.session_id,
            reason=await self._reason(record),
            previous_process=str(record.last_process) if record.last_process else None,
            idle_for=timezone.now() - record.last_seen_at,
            restore_count=record.restore_count + 1,
            process_restore_count=self.live.restores(digest) + 1,
            initialized_at=record.initialized_at,
        )
        await handshake.replay(visit.kernel, visit.hook(session), json.loads(record.initialize_params_json))
        if not await self.store.mark_restored(digest, this_process(), visit.kernel.fingerprint):
            raise SessionNotFound
        if record.tools_fingerprint != visit.kernel.fingerprint:
            # Other code than the client saw the tools of: a deploy.
            await self.streams.post(digest, jsonrpc.notification("notifications/tools/list_changed"))
        self.live.count_restore(digest)
        await announce(signals.session_restored, visit, session=session, marker=marker)
        logger.info("session=%s restored reason=%s client=%r", digest[:12], marker.reason, record.client_name)
        return session

    async def _reason(self, record: SessionRecord) -> RestoreReason:
        if record.last_process is None:
            return "restart"
        if record.last_process == this_process():
            return "evicted"
        # After a restart all sessions were last served by one process: the store is asked about it once.
        if record.last_process in self._gone:
            return "restart"
        if await self.store.process_alive(record.last_process):
            return "other_process"
        self._gone.append(record.last_process)
        return "restart"

    async def initialized(self, visit: Visit, session: LiveSession) -> None:
        """Serve ``notifications/initialized``: kept, then told to the handlers; a second one changes nothing.

        Raises:
            SessionNotFound: the session ended meanwhile.
        """
        if session.initialized:
            return
        # Before the wait, so that a second one that comes meanwhile is told nothing again.
        session.initialized = True
        try:
            await session.mark_initialized()
        except BaseException:
            session.initialized = False
            raise
        await threads.start(lambda: handshake.initialized(visit.kernel, visit.hook(session), None))

    async def end(self, visit: Visit, reason: str) -> None:
        """End a session for every process.

        Raises:
            SessionNotFound: to this caller there is none.
        """
        digest = digest_of(visit.session_id)
        self._usable(visit, digest, await self.store.head(digest))
        ended = await self.store.end(digest, reason, "terminated")
        self.live.drop(digest)
        if not ended:
            raise SessionNotFound
        self.streams.session_ended(digest)
        self.streams.wakeups.send(f"session:{digest}")
        await announce(signals.session_ended, visit, session=digest, reason=reason)


def head_of(found: SessionHead | SessionRecord) -> SessionHead:
    """The part that requests are checked against."""
    return found.head if isinstance(found, SessionRecord) else found


async def announce(signal: Signal, visit: Visit, **arguments: Any) -> None:
    """Send a signal with the server as sender, in a context of its own; most projects listen to none."""
    sender = visit.kernel.owner
    if signal.has_listeners(sender):
        await threads.start(lambda: signal.asend_robust(sender=sender, **arguments))


@lru_cache(maxsize=256)
def parse_initialize_params(text: str) -> InitializeRequestParams:
    """The params as the SDK's model, shared between all sessions whose clients sent the same: thousands of
    sessions come from a handful of clients, and the model is most of what a session weighs.

    Raises:
        ValidationError: they are not initialize params.
    """
    return InitializeRequestParams.model_validate_json(text, by_name=False)


def new_record(visit: Visit, params: dict[str, Any], client_params: InitializeRequestParams) -> SessionRecord:
    """The record of a session that is being opened."""
    now = timezone.now()
    user = visit.principal.user
    return SessionRecord(
        digest=digest_of(visit.session_id),
        server=visit.server,
        principal=visit.principal.key,
        owner_id=user.pk if user is not None else None,
        initialize_params_json=jsonrpc.canonical(params),
        protocol_version=negotiated(client_params.protocol_version),
        client_name=cleaned(client_params.client_info.name, 100),
        client_version=cleaned(client_params.client_info.version, 50),
        created_at=now,
        last_seen_at=now,
        # Whoever never comes back after initialize has left a session half open.
        expires_at=now + min(mcp_settings.HALF_OPEN_TTL, mcp_settings.SESSION_TTL),
        quota=limits.quota_of(limits.caller_of(visit.principal, visit.http)),
        last_process=this_process(),
        tools_fingerprint=visit.kernel.fingerprint,
    )


def negotiated(offered: str) -> str:
    """The version that a session speaks: the client's if we know it, else our latest (Lifecycle, version
    negotiation)."""
    return offered if offered in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION


def cleaned(text: str, length: int) -> str:
    """A client's text as it may be stored and shown: printable characters only, cut to ``length``."""
    return "".join(character for character in text if character.isprintable())[:length]


_sessions: dict[int, Sessions] = {}


def sessions() -> Sessions:
    """The sessions of this process, over the configured store."""
    store = session_store()
    if id(store) not in _sessions:
        _sessions.clear()
        _sessions[id(store)] = Sessions(store)
    return _sessions[id(store)]
