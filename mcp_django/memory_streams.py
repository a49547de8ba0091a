"""Streams in the memory of one process: what goes with a session store that other processes do not see."""

from __future__ import annotations

import json
import threading
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mcp_django.exceptions import StreamLost
from mcp_django.jsonrpc import RequestId
from mcp_django.models import Cancellation
from mcp_django.stream_batches import NEVER_TOLD, Append, Post, Raise
from mcp_django.stream_reads import Notice, StreamHead

MAX_STREAMS = 1000
MAX_CANCELLATIONS = 1000


@dataclass(slots=True)
class _Stream:
    digest: str
    process: uuid.UUID | None
    request_ids_json: str = "[]"
    standalone: bool = False
    finished: bool = False
    reader: uuid.UUID | None = None
    delivered: int = 0
    told: int = 0
    events: list[str] = field(default_factory=list)

    def change_reader(self, reader: uuid.UUID | None, told: int | None) -> None:
        self.reader = reader
        self.told = self.told if told is None else told

    @property
    def head(self) -> StreamHead:
        return StreamHead(
            self.digest,
            self.standalone,
            self.request_ids_json,
            len(self.events),
            self.finished,
            self.process,
            True,
            self.reader,
            self.delivered,
            self.told,
        )


class MemoryStreams:
    """Streams in dicts; the oldest finished ones are dropped beyond ``MAX_STREAMS``. Safe from any thread."""

    may_judge = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._questions: dict[uuid.UUID, tuple[str, str | None]] = {}
        self._cancelled: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._clocks: dict[str, int] = defaultdict(int)
        self._notices: dict[tuple[str, str, str], int] = {}

    async def append(self, append: Append) -> None:
        with self._lock:
            stream = self._streams.get(append.stream)
            if (opens := append.opens) is not None:
                stream = _Stream(opens.digest, opens.process, json.dumps(opens.request_ids)) if stream is None else None
            if stream is None or (append.sequence and append.sequence != len(stream.events) + 1):
                raise StreamLost
            if append.asks is not None and append.asks.id in self._questions:
                raise StreamLost
            if opens is not None:
                self._drop_finished()
                self._streams[opens.id] = stream
            if append.sequence:
                stream.events.append(append.payload)
            if append.asks is not None:
                self._questions[append.asks.id] = (append.asks.digest, None)
            stream.finished = stream.finished or append.finishes

    async def post(self, stream: int, digest: str, payload: str) -> int:
        with self._lock:
            standalone = self._standalone(stream, digest, NEVER_TOLD)
            standalone.events.append(payload)
            return len(standalone.events)

    async def heads(self, streams: Iterable[int]) -> dict[int, StreamHead]:
        with self._lock:
            return {stream: self._streams[stream].head for stream in streams if stream in self._streams}

    async def events(self, stream: int, after: int, limit: int) -> list[tuple[int, str]]:
        with self._lock:
            kept = self._streams.get(stream)
            return list(enumerate(kept.events[after : after + limit], after + 1)) if kept is not None else []

    async def open_standalone(self, stream: int, digest: str, told: int) -> None:
        with self._lock:
            self._standalone(stream, digest, told)

    async def take_over(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        with self._lock:
            return self._take(stream, reader, told)

    async def take_if_free(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        with self._lock:
            kept = self._streams.get(stream)
            return kept is not None and kept.reader in (None, reader) and self._take(stream, reader, told)

    def release(self, stream: int, reader: uuid.UUID, told: int | None, done: Callable[[], None]) -> None:
        with self._lock:
            kept = self._streams.get(stream)
            if kept is not None and kept.reader == reader:
                kept.change_reader(None, told)
        done()

    async def deliver(self, stream: int, reader: uuid.UUID, sequence: int) -> bool:
        with self._lock:
            kept = self._streams.get(stream)
            if kept is None or kept.reader != reader or kept.delivered >= sequence:
                return False
            kept.delivered = sequence
            return True

    async def leave(self, process: uuid.UUID) -> None:
        """Nothing outlives the process."""

    async def end_orphan(self, stream: int, process: uuid.UUID, payloads: tuple[str, ...]) -> bool:
        return False

    async def answer(self, digest: str, question: uuid.UUID, answer_json: str) -> bool:
        with self._lock:
            if self._questions.get(question) != (digest, None):
                return False
            self._questions[question] = (digest, answer_json)
            return True

    async def abandon(self, digest: str, question: uuid.UUID) -> bool:
        with self._lock:
            if self._questions.get(question) != (digest, None):
                return False
            del self._questions[question]
            return True

    async def answers(self, questions: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
        with self._lock:
            known = {question: self._questions.get(question, ("", None))[1] for question in questions}
            return {question: answer for question, answer in known.items() if answer is not None}

    async def cancel(self, digest: str, request_id: RequestId) -> None:
        with self._lock:
            self._cancelled[digest, Cancellation.key_of(request_id)] = None
            while len(self._cancelled) > MAX_CANCELLATIONS:
                self._cancelled.popitem(last=False)

    async def cancellations(self, digests: Iterable[str]) -> dict[str, set[str]]:
        wanted = set(digests)
        keys: dict[str, set[str]] = defaultdict(set)
        with self._lock:
            for digest, key in self._cancelled:
                if digest in wanted:
                    keys[digest].add(key)
        return dict(keys)

    def take(self, item: Raise | Post) -> None:
        """Do at once what in a database is written after a commit."""
        with self._lock:
            if isinstance(item, Post):
                self._standalone(item.stream, item.digest, NEVER_TOLD).events.append(item.payload)
                return
            self._clocks[item.server] += 1
            self._notices[item.server, item.kind, item.uri] = self._clocks[item.server]

    async def clocks(self, servers: Iterable[str]) -> dict[str, int]:
        with self._lock:
            return {server: self._clocks.get(server, 0) for server in servers}

    async def notices(self, server: str, after: int, uris: Iterable[str]) -> list[Notice]:
        wanted = {"", *uris}
        with self._lock:
            found = [
                Notice(kind, uri, version)
                for (of_server, kind, uri), version in self._notices.items()
                if of_server == server and version > after and uri in wanted
            ]
        return sorted(found, key=lambda notice: notice.version)

    def _standalone(self, stream: int, digest: str, told: int) -> _Stream:
        return self._streams.setdefault(stream, _Stream(digest, None, standalone=True, told=told))

    def _take(self, stream: int, reader: uuid.UUID, told: int | None) -> bool:
        kept = self._streams.get(stream)
        if kept is None:
            return False
        kept.change_reader(reader, told)
        return True

    def _drop_finished(self) -> None:
        if len(self._streams) < MAX_STREAMS:
            return
        for stream in [stream for stream, kept in self._streams.items() if kept.finished][: MAX_STREAMS // 10]:
            del self._streams[stream]
