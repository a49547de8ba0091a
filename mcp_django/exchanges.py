"""Exchanges: one POST's requests on their way to their answers, in one piece or as a stream.

An exchange that ends quickly and quietly is answered with JSON and writes nothing. The first message of a call, or
``MCP_DJANGO_STREAM_AFTER`` seconds, turn it into a stream; from then on everything is committed before it is sent, and
no connection is needed for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mcp_django import jsonrpc
from mcp_django.answers import encoded, payload_of, payload_of_answer
from mcp_django.conf import mcp_settings
from mcp_django.cursors import PRIMING_VERSION
from mcp_django.exceptions import ClientCannot, StoreUnavailable, StreamLost, TooManyEvents
from mcp_django.feeds import Feed
from mcp_django.stream_batches import Question
from mcp_django.streams import Streams

if TYPE_CHECKING:
    from mcp_django.live import LiveSession

logger = logging.getLogger("mcp_django.calls")


class Exchange:
    """What one POST is answered with.

    Args:
        requests: the requests that it answers by their places in the batch; one at place 0 but for batches.
        answers: that are there already, to what was no request, by their places.
        secret: the session id, which is not to get into rows: an event says ``[session id]`` in its place.
        streams_allowed: whether the connection can carry a stream; under WSGI it cannot.
    """

    __slots__ = (
        "_answers",
        "_lock",
        "_pending",
        "_secret",
        "_timer",
        "decided",
        "feed",
        "requests",
        "session",
        "streams",
        "streams_allowed",
    )

    def __init__(
        self,
        streams: Streams,
        session: LiveSession,
        requests: Mapping[int, jsonrpc.Request],
        *,
        answers: Mapping[int, dict[str, Any]] = MappingProxyType({}),
        secret: str,
        streams_allowed: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.streams = streams
        self.session = session
        self.requests = requests
        self.streams_allowed = streams_allowed
        self.feed: Feed | None = None
        self._secret = secret
        self.decided: asyncio.Future[None] = loop.create_future()
        """Done once it is known whether the answer is one piece (``feed`` is None) or a stream."""
        self._answers = {place: encoded(answer) for place, answer in answers.items()}
        self._pending = len(requests)
        self._lock: asyncio.Lock | None = None
        self._timer: asyncio.TimerHandle | None = None
        if not requests:
            self._decide()
        elif streams_allowed:
            self._timer = loop.call_later(mcp_settings.STREAM_AFTER, self._take_long)

    @property
    def answers(self) -> list[bytes]:
        """The answers in one piece, as JSON, in the order of what they answer."""
        return [answer for _place, answer in sorted(self._answers.items())]

    async def send(self, message: dict[str, Any], asks: Question | None = None) -> None:
        """Send a message to the client on this exchange's stream; it is committed on return.

        Raises:
            ClientCannot: the message is a question, and there can be no stream or all is answered.
            EventTooLarge, TooManyEvents, StoreUnavailable, StreamLost: the message was not sent.
        """
        if not self.streams_allowed:
            if asks is not None:
                raise ClientCannot("Under WSGI nothing can be asked: the answer leaves in one piece.")
            return
        payload = self._redacted(payload_of(message))
        if self.feed is None:
            await unbroken(self._send(payload, asks))
        else:
            await self._send(payload, asks)

    async def _send(self, payload: str, asks: Question | None) -> None:
        async with self._locked():
            if self._is_over:
                if asks is not None:
                    raise ClientCannot("Nothing can be asked any more: the request is answered.")
            elif self.feed is None:
                await self._open(payload, asks)
            elif self.feed.last >= mcp_settings.MAX_STREAM_EVENTS:
                raise TooManyEvents
            else:
                await self.streams.append(self.feed, payload, asks=asks)

    @property
    def _is_over(self) -> bool:
        """Whether the last answer is given; a task that a handler left behind may still hold on to its context."""
        return not self._pending if self.feed is None else self.feed.produced and self.feed.finished

    async def settle(self, place: int, answer: dict[str, Any]) -> None:
        """Take the answer to the request at ``place``. After the last one the exchange is over."""
        if self.feed is None and (self._lock is None or not self._lock.locked()):
            self._settle_quietly(place, answer)
            return
        async with self._locked():
            if self.feed is None:
                self._settle_quietly(place, answer)
            else:
                await self._append_answer(self.feed, answer)

    async def open(self) -> None:
        """Have a stream, if there can be one."""
        if self.streams_allowed and self.feed is None:
            await unbroken(self._open_quietly())

    async def _open_quietly(self) -> None:
        async with self._locked():
            if self.feed is None and self._pending:
                await self._open()

    @property
    def calls(self) -> set[Any]:
        """The running calls of this process that belong to sessions."""
        return self.streams.calls

    async def close_connections(self) -> None:
        """Close the connection; the client comes back for the rest. Clients of revisions before 2025-11-25, in which
        this came, would not."""
        if self.session.protocol_version < PRIMING_VERSION:
            return
        await self.open()
        if self.feed is not None:
            await self.streams.close_connections(self.feed)

    def _locked(self) -> asyncio.Lock:
        # Most exchanges are quiet and never need one.
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    def _settle_quietly(self, place: int, answer: dict[str, Any]) -> None:
        self._pending -= 1
        self._answers[place] = encoded(answer)
        if not self._pending:
            self._decide()

    async def _open(self, payload: str = "", asks: Question | None = None) -> None:
        requests = list(self.requests.values())
        first = requests[0]
        name = (first.params or {}).get("name") or (first.params or {}).get("uri")
        self.feed = await self.streams.open(
            self.session.digest,
            tuple(request.id for request in requests),
            first.method,
            name if isinstance(name, str) else "",
            payload,
            asks,
        )
        self._decide()
        # What other members of a batch were answered before the first of them became loud.
        answers, self._answers = self.answers, {}
        for answer in answers:
            await self.streams.append(self.feed, self._answer_payload(json.loads(answer)))

    async def _append_answer(self, feed: Feed, answer: dict[str, Any]) -> None:
        # Counted here, where answers are in order: only the last one to be written finishes the stream.
        self._pending -= 1
        try:
            await self.streams.append(feed, self._answer_payload(answer), finishes=not self._pending)
        except StreamLost:
            # The client has been told otherwise, and one request has one answer.
            return
        except StoreUnavailable:
            logger.error("stream=%x has no end: the store stayed away for too long", feed.id)
            feed.saw(feed.last, finished=True)

    def _answer_payload(self, answer: dict[str, Any]) -> str:
        return self._redacted(payload_of_answer(answer))

    def _redacted(self, payload: str) -> str:
        return payload.replace(self._secret, "[session id]")

    def _decide(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.decided.done():
            self.decided.set_result(None)

    def _take_long(self) -> None:
        self._timer = None
        going_on(self._open_late())

    async def _open_late(self) -> None:
        try:
            await self.open()
        except (StoreUnavailable, StreamLost) as error:
            # The answer then leaves in one piece, as that of a quick call does.
            logger.debug("a call that takes long got no stream: %s", error)


_opening: set[asyncio.Task[None]] = set()


async def unbroken(opening: Coroutine[Any, Any, None]) -> None:
    """Open a stream to the end, even if the handler that needs it is cancelled: half a one would never end."""
    await asyncio.shield(going_on(opening))


def going_on(opening: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The task of an opening that nobody need wait for."""
    task = asyncio.get_running_loop().create_task(opening)
    # The loop keeps only weak references to tasks.
    _opening.add(task)
    task.add_done_callback(_opening.discard)
    return task
