"""Writes of streams, questions, cancellations and notices, as they go through the lane for writes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.db import connections
from django.db.models import F
from django.utils import timezone

from mcp_django.exceptions import StreamLost
from mcp_django.jsonrpc import RequestId
from mcp_django.models import Cancellation, ClientRequest, Event, Process, Session, Stream, Topic
from mcp_django.stream_reads import with_last
from mcp_django.visits import alias

NEVER_TOLD: Final = -1
"""The number of the last notice that a standalone stream was told of, before anybody listened to it."""

SEPARATOR: Final = "\x1f"
"""Stands between payloads: no JSON text has it in it (RFC 8259, sections 2 and 7)."""


@dataclass(slots=True, frozen=True)
class StreamRecord:
    """A stream that is being opened."""

    id: int
    digest: str
    process: uuid.UUID
    request_ids: tuple[RequestId, ...] = ()
    method: str = ""
    name: str = ""


@dataclass(slots=True, frozen=True)
class Question:
    """A request to the client that leaves with the event it is in."""

    id: uuid.UUID
    digest: str
    method: str


# Not frozen: there is one for each event, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Append:
    """The next event of a stream, perhaps with the stream's beginning or end; all of it or nothing.

    Args:
        sequence: one more than the last; 0 to open the stream without an event.
        opens: the stream's row. asks: the question that the event is. finishes: whether it is the last event.
    """

    stream: int
    sequence: int
    payload: str
    opens: StreamRecord | None = None
    asks: Question | None = None
    finishes: bool = False

    conflict: ClassVar[type[Exception]] = StreamLost

    @property
    def size(self) -> int:
        return len(self.payload)

    @staticmethod
    def serve(items: Sequence[Append]) -> list[None]:
        insert_streams([item.opens for item in items if item.opens is not None])
        # The stream's row before its events, as whoever judges the producer locks them: else both would wait.
        finish_streams([item.stream for item in items if item.finishes])
        insert_events([(item.stream, item.sequence, item.payload) for item in items if item.sequence])
        if asked := [(item.asks, item.stream) for item in items if item.asks is not None]:
            ClientRequest.objects.using(alias()).bulk_create(
                ClientRequest(pk=question.id, session_id=question.digest, stream_id=stream, method=question.method)
                for question, stream in asked
            )
        return [None] * len(items)


# What every stream needs is written by hand: building and compiling a statement takes longer than running it, and
# meanwhile every other thread waits for the interpreter.


def insert_streams(records: Sequence[StreamRecord]) -> None:
    """Insert the rows of streams that are being opened."""
    if not records:
        return
    connection, now = _connection_and_time()
    process = Stream._meta.get_field("process").get_db_prep_value
    rows = [
        {
            "id": record.id,
            "session_id": record.digest,
            "standalone": False,
            "request_ids_json": json.dumps(record.request_ids),
            # A client chose them: not every database takes all that JSON has.
            "method": record.method.replace("\0", "")[:100],
            "name": record.name.replace("\0", "")[:200],
            "process": process(record.process, connection),
            "told": 0,
            "delivered": 0,
            "created_at": now,
        }
        for record in records
    ]
    columns, marks = _quoted(*rows[0]), ", ".join(["%s"] * len(rows[0]))
    with connection.cursor() as cursor:
        sql = f"INSERT INTO {_quoted(Stream._meta.db_table)} ({columns}) VALUES ({marks})"
        cursor.executemany(sql, [tuple(row.values()) for row in rows])


def insert_events(events: Sequence[tuple[int, int, str]]) -> None:
    """Insert events, each one a stream, a sequence and a payload."""
    if not events:
        return
    connection, now = _connection_and_time()
    into = f"{_quoted(Event._meta.db_table)} ({_quoted('stream_id', 'sequence', 'payload', 'created_at')})"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Three parameters for all rows: the driver takes longer for each one than all else takes for a row.
            streams, sequences, payloads = zip(*events, strict=True)
            sql = f"INSERT INTO {into} SELECT *, %s FROM unnest(%s::bigint[], %s::bigint[], string_to_array(%s, %s))"
            numbers = (f"{{{','.join(map(str, column))}}}" for column in (streams, sequences))
            cursor.execute(sql, (now, *numbers, SEPARATOR.join(payloads), SEPARATOR))
        else:
            cursor.executemany(f"INSERT INTO {into} VALUES (%s, %s, %s, %s)", [(*event, now) for event in events])


def finish_streams(streams: Sequence[int]) -> None:
    """Note that the last answers are written."""
    if not streams:
        return
    connection, now = _connection_and_time()
    table, pk, finished = map(_quoted, (Stream._meta.db_table, "id", "finished_at"))
    marks = ", ".join(["%s"] * len(streams))
    with connection.cursor() as cursor:
        # No condition on finished_at: to SQLite it would seem cheaper to read all streams that are not finished.
        sql = f"UPDATE {table} SET {finished} = COALESCE({finished}, %s) WHERE {pk} IN ({marks})"
        cursor.execute(sql, (now, *streams))


def _connection_and_time() -> tuple[Any, Any]:
    connection = connections[alias()]
    return connection, connection.ops.adapt_datetimefield_value(timezone.now())


def _quoted(*names: str) -> str:
    return ", ".join(map(connections[alias()].ops.quote_name, names))


@dataclass(slots=True, frozen=True)
class Post:
    """An event of a session's standalone stream, which every process may append to; its sequence is the outcome.

    Args:
        server: None, or the server that the session must be one of, and live on; else the outcome is 0.
    """

    stream: int
    digest: str
    payload: str
    server: str | None = None

    conflict: ClassVar[type[Exception]] = StreamLost

    @property
    def size(self) -> int:
        return len(self.payload)

    @staticmethod
    def serve(items: Sequence[Post]) -> list[int | StreamLost]:
        live = {(item.digest, item.server) for item in items if item.server is None} | Post._live(items)
        wanted = [item for item in items if (item.digest, item.server) in live]
        OpenStandalone.create([(item.stream, item.digest) for item in wanted])
        rows = Stream.objects.using(alias()).filter(pk__in={item.stream for item in wanted}).order_by("pk")
        # One writer at a time for each stream: the row is locked until the commit.
        rows.update(delivered=F("delivered"))
        last: dict[int, int] = dict(with_last(rows).values_list("pk", "last"))
        events = []
        outcomes: list[int | StreamLost] = []
        for item in items:
            if (item.digest, item.server) not in live:
                outcomes.append(0)
                continue
            if item.stream not in last:
                # Some databases pass over a row whose session is not there, others refuse it.
                outcomes.append(StreamLost())
                continue
            last[item.stream] = (last[item.stream] or 0) + 1
            outcomes.append(last[item.stream])
            events.append((item.stream, last[item.stream], item.payload))
        insert_events(events)
        return outcomes

    @staticmethod
    def _live(items: Sequence[Post]) -> set[tuple[str, str | None]]:
        digests = {item.digest for item in items if item.server is not None}
        rows: Any = Session.objects.using(alias()).filter(pk__in=digests)
        return set(rows.active().values_list("pk", "server")) if digests else set()


@dataclass(slots=True, frozen=True)
class OpenStandalone:
    """A session's standalone stream, which is there from then on."""

    stream: int
    digest: str
    told: int

    @staticmethod
    def serve(items: Sequence[OpenStandalone]) -> list[None]:
        for item in items:
            OpenStandalone.create([(item.stream, item.digest)], item.told)
        return [None] * len(items)

    @staticmethod
    def create(streams: Sequence[tuple[int, str]], told: int = NEVER_TOLD) -> None:
        """Create the rows that are not there yet."""
        wanted = dict(streams)
        there = set(Stream.objects.using(alias()).filter(pk__in=wanted).values_list("pk", flat=True))
        rows = [
            Stream(pk=stream, session_id=digest, standalone=True, told=told)
            for stream, digest in sorted(wanted.items())
            if stream not in there
        ]
        if rows:
            Stream.objects.using(alias()).bulk_create(rows, ignore_conflicts=True)


@dataclass(slots=True, frozen=True)
class EndOrphan:
    """The end of a stream whose producer died: an error for each of its requests. True if this did it."""

    stream: int
    process: uuid.UUID
    payloads: tuple[str, ...]

    conflict: ClassVar[type[Exception]] = StreamLost

    @staticmethod
    def serve(items: Sequence[EndOrphan]) -> list[bool]:
        return [item._end() for item in items]

    def _end(self) -> bool:
        rows = Stream.objects.using(alias()).filter(pk=self.stream, process=self.process)
        # Its process may have woken up since somebody looked.
        dead = rows.exclude(process__in=Process.objects.using(alias()).alive().values("pk"))
        if not dead.filter(finished_at=None).update(finished_at=timezone.now()):
            return False
        last = with_last(rows).values_list("last", flat=True).get() or 0
        insert_events([(self.stream, last + 1 + index, payload) for index, payload in enumerate(self.payloads)])
        return True


@dataclass(slots=True, frozen=True)
class Leave:
    """The end of a process that ends in good order."""

    process: uuid.UUID

    @staticmethod
    def serve(items: Sequence[Leave]) -> list[None]:
        processes = {item.process for item in items}
        read = Stream.objects.using(alias()).filter(reader_process__in=processes)
        read.update(reader=None, reader_process=None)
        Process.objects.using(alias()).filter(pk__in=processes).delete()
        return [None] * len(items)


@dataclass(slots=True, frozen=True)
class Cancel:
    """A client gives up one of its requests, wherever that runs."""

    digest: str
    request_id: RequestId

    @staticmethod
    def serve(items: Sequence[Cancel]) -> list[None]:
        rows = [
            Cancellation(session_id=item.digest, request_key=Cancellation.key_of(item.request_id)) for item in items
        ]
        Cancellation.objects.using(alias()).bulk_create(rows, ignore_conflicts=True)
        sessions: Any = Session.objects.using(alias()).filter(pk__in={item.digest for item in items})
        sessions.active().update(epoch=F("epoch") + 1)
        return [None] * len(items)


@dataclass(slots=True, frozen=True)
class Raise:
    """A notice; its number is the outcome."""

    server: str
    kind: str
    uri: str = ""

    @staticmethod
    def serve(items: Sequence[Raise]) -> list[int]:
        numbers = {server: Raise.tick(server) for server in sorted({item.server for item in items})}
        for item in sorted(set(items), key=lambda item: (item.server, item.kind, item.uri)):
            topic = Topic(
                pk=Topic.id_of(item.server, item.kind, item.uri), server=item.server, kind=item.kind, uri=item.uri
            )
            topic._state.db = alias()
            topic.raise_to(numbers[item.server])
        return [numbers[item.server] for item in items]

    @staticmethod
    def tick(server: str) -> int:
        """Raise the server's clock, which stays locked until the commit."""
        clocks = Topic.objects.using(alias()).filter(pk=Topic.id_of(server, Topic.Kind.CLOCK))
        if not clocks.update(version=F("version") + 1, raised_at=timezone.now()):
            row = Topic(pk=Topic.id_of(server, Topic.Kind.CLOCK), server=server, kind=Topic.Kind.CLOCK)
            Topic.objects.using(alias()).bulk_create([row], ignore_conflicts=True)
            clocks.update(version=F("version") + 1)
        return int(clocks.values_list("version", flat=True).get())
