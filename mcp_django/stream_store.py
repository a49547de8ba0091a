"""The seam between streams and what keeps them: streams, their events, questions, cancellations, notices.

In the database they are shared by all processes. With a session store that is not ours they live in the memory of
one process (:mod:`mcp_django.memory_streams`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast

from django.db.models import F

from mcp_django import stream_batches as batches
from mcp_django import stream_reads as reads
from mcp_django.batches import Change
from mcp_django.jsonrpc import RequestId
from mcp_django.models import ClientRequest, Stream
from mcp_django.stream_batches import Append
from mcp_django.stream_reads import Notice, StreamHead
from mcp_django.visits import alias

if TYPE_CHECKING:
    from mcp_django.store import ORMStore


class StreamStore(Protocol):
    """What keeps streams. Every method may raise :class:`~mcp_django.exceptions.StoreUnavailable`."""

    @property
    def may_judge(self) -> bool:
        """Whether a process whose lease ran out may be taken for dead, going by what this one knows."""

    async def append(self, append: Append) -> None:
        """Commit the next event of a stream.

        Raises:
            StreamLost: there is already an event with this sequence, so somebody else ended the stream.
        """

    async def post(self, stream: int, digest: str, payload: str) -> int:
        """Commit an event of a session's standalone stream and return its sequence.

        Raises:
            StreamLost: the session is not kept any more.
        """

    async def heads(self, streams: Iterable[int]) -> dict[int, StreamHead]:
        """Where streams stand; those that are not kept are left out."""

    async def events(self, stream: int, after: int, limit: int) -> list[tuple[int, str]]:
        """Up to ``limit`` events after a sequence, in order."""

    async def open_standalone(self, stream: int, digest: str, told: int) -> None:
        """Have a session's standalone stream; one that is there stays as it is."""

    async def take_over(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        """Make a connection the reader, whichever was. False if the stream is gone.

        Args:
            told: the number of the last notice that the stream was told of; None to leave it as it is.
        """

    async def take_if_free(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        """Make a connection the reader unless another, living one is."""

    def release(self, stream: int, reader: uuid.UUID, told: int | None, done: Callable[[], None]) -> None:
        """The reader's connection is gone. Some time soon, ``done`` is called then; nobody waits."""

    async def deliver(self, stream: int, reader: uuid.UUID, sequence: int) -> bool:
        """Claim a standalone stream's events up to ``sequence``. False if it is no longer the reader."""

    async def leave(self, process: uuid.UUID) -> None:
        """A process ends: it has no lease and reads nothing any more. What it wrote before is written on return."""

    async def end_orphan(self, stream: int, process: uuid.UUID, payloads: tuple[str, ...]) -> bool:
        """End the stream of a dead process with these events. False if somebody else did.

        Raises:
            StreamLost: its producer has just appended to it, so it lives.
        """

    async def answer(self, digest: str, question: uuid.UUID, answer_json: str) -> bool:
        """Keep a client's answer. False if the question is not open, or not this session's."""

    async def abandon(self, digest: str, question: uuid.UUID) -> bool:
        """Nobody waits for the answer any more. False if it has come."""

    async def answers(self, questions: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
        """The answers (JSON) to those questions that were answered."""

    async def cancel(self, digest: str, request_id: RequestId) -> None:
        """Keep a client's wish to give up a request, and raise the session's epoch."""

    async def cancellations(self, digests: Iterable[str]) -> dict[str, set[str]]:
        """The keys of the requests that were given up (``Cancellation.key_of``), by session."""

    async def clocks(self, servers: Iterable[str]) -> dict[str, int]:
        """The number of each server's last notice."""

    async def notices(self, server: str, after: int, uris: Iterable[str]) -> list[Notice]:
        """A server's notices after a number: of its lists, and of these resources."""


class ORMStreams:
    """Streams in the project's database, through the lanes of its session store."""

    def __init__(self, store: ORMStore) -> None:
        self._heartbeat = store.heartbeat
        self._read = store.reads.ask
        self._write = store.writes.ask
        self._post = store.writes.post

    @property
    def may_judge(self) -> bool:
        return self._heartbeat.may_judge

    async def append(self, append: Append) -> None:
        await self._write(append)

    async def post(self, stream: int, digest: str, payload: str) -> int:
        return cast(int, await self._write(batches.Post(stream, digest, payload)))

    async def heads(self, streams: Iterable[int]) -> dict[int, StreamHead]:
        return cast(dict[int, StreamHead], await self._read(reads.ReadStreams(frozenset(streams))))

    async def events(self, stream: int, after: int, limit: int) -> list[tuple[int, str]]:
        return cast(list[tuple[int, str]], await self._read(reads.ReadEvents(stream, after, limit)))

    async def open_standalone(self, stream: int, digest: str, told: int) -> None:
        await self._write(batches.OpenStandalone(stream, digest, told))

    async def take_over(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        return await self._change(lambda: row(stream).take_over(reader, process, kept(told)))

    async def take_if_free(self, stream: int, reader: uuid.UUID, process: uuid.UUID, told: int | None) -> bool:
        judge = self.may_judge
        return await self._change(lambda: row(stream).take_if_free(reader, process, kept(told), judge=judge))

    def release(self, stream: int, reader: uuid.UUID, told: int | None, done: Callable[[], None]) -> None:
        self._post(Change(lambda: row(stream).release(reader, kept(told))), done)

    async def deliver(self, stream: int, reader: uuid.UUID, sequence: int) -> bool:
        return await self._change(lambda: row(stream).deliver(reader, sequence))

    async def leave(self, process: uuid.UUID) -> None:
        self._heartbeat.stop()
        await self._write(batches.Leave(process))

    async def end_orphan(self, stream: int, process: uuid.UUID, payloads: tuple[str, ...]) -> bool:
        return cast(bool, await self._write(batches.EndOrphan(stream, process, payloads)))

    async def answer(self, digest: str, question: uuid.UUID, answer_json: str) -> bool:
        return await self._change(lambda: asked(question, digest).answer(answer_json))

    async def abandon(self, digest: str, question: uuid.UUID) -> bool:
        return await self._change(lambda: asked(question, digest).abandon())

    async def answers(self, questions: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
        return cast(dict[uuid.UUID, str], await self._read(reads.ReadAnswers(frozenset(questions))))

    async def cancel(self, digest: str, request_id: RequestId) -> None:
        await self._write(batches.Cancel(digest, request_id))

    async def cancellations(self, digests: Iterable[str]) -> dict[str, set[str]]:
        return cast(dict[str, set[str]], await self._read(reads.ReadCancellations(frozenset(digests))))

    async def clocks(self, servers: Iterable[str]) -> dict[str, int]:
        return cast(dict[str, int], await self._read(reads.ReadClocks(frozenset(servers))))

    async def notices(self, server: str, after: int, uris: Iterable[str]) -> list[Notice]:
        return cast(list[Notice], await self._read(reads.ReadNotices(server, after, frozenset(uris))))

    async def _change(self, change: Callable[[], bool]) -> bool:
        return cast(bool, await self._write(Change(change)))


def kept(told: int | None) -> Any:
    """A value for the column ``told``; None leaves it as it is."""
    return F("told") if told is None else told


def row(stream: int) -> Stream:
    """A stream's row, for its state changes."""
    made = Stream(pk=stream)
    made._state.db = alias()
    return made


def asked(question: uuid.UUID, digest: str) -> ClientRequest:
    """A question's row, for its state changes."""
    made = ClientRequest(pk=question, session_id=digest)
    made._state.db = alias()
    return made
