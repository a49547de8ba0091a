"""An event store in memory, as the official SDK's examples have one: the least that a resumable stream can cost."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple
from uuid import uuid4

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage

MAX_EVENTS_PER_STREAM = 100


class Entry(NamedTuple):
    """One event. A message that is None is a priming event's."""

    event_id: EventId
    stream_id: StreamId
    message: JSONRPCMessage | None


class InMemoryEventStore(EventStore):
    """Keeps the newest events of every stream, for as long as the process lives."""

    def __init__(self) -> None:
        self._streams: dict[StreamId, deque[Entry]] = defaultdict(lambda: deque(maxlen=MAX_EVENTS_PER_STREAM))
        self._entries: dict[EventId, Entry] = {}

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        entry = Entry(str(uuid4()), stream_id, message)
        events = self._streams[stream_id]
        if len(events) == MAX_EVENTS_PER_STREAM:
            del self._entries[events[0].event_id]
        events.append(entry)
        self._entries[entry.event_id] = entry
        return entry.event_id

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        last = self._entries.get(last_event_id)
        if last is None:
            return None
        seen = False
        for entry in self._streams[last.stream_id]:
            if seen and entry.message is not None:
                await send_callback(EventMessage(entry.message, entry.event_id))
            seen = seen or entry is last
        return last.stream_id
