"""Reads and writes of streams, questions and notices, as they go through the lanes."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from django.db import connections
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.utils import timezone

from mcp_django.exceptions import StreamLost
from mcp_django.jsonrpc import RequestId
from mcp_django.models import Cancellation, ClientRequest, Event, Process, Session, Stream, Topic
from mcp_django.visits import alias

NEVER_TOLD: Final = -1
"""The number of the last notice that a standalone stream was told of, before anybody listened to it."""

SEPARATOR: Final = "\x1f"
"""Stands between payloads: no JSON text has it in it (RFC 8259, sections 2 and 7)."""


class StreamHead(NamedTuple):
    """Where a stream stands.

    Args:
        last: the sequence of its last event, 0 if there is none. finished: whether more will come.
        process: the producing one. alive: whether that renewed its lease in time.
        reader: the connection that took the stream over, if one did.
    """

    digest: str
    standalone: bool
    request_ids_json: str
    last: int
    finished: bool
    process: uuid.UUID | None
    alive: bool
    reader: uuid.UUID | None
    delivered: int
    told: int


class Notice(NamedTuple):
    """What changed: a kind of list, or the resource at ``uri``; ``version`` is the notice's number."""

    kind: str
    uri: str
    version: int


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


@dataclass(slots=True, frozen=True)
class ReadStreams:
    """Where streams stand, in one query; those that are not there are left out."""

    streams: frozenset[int]

    @staticmethod
    def serve(items: Sequence[ReadStreams]) -> list[dict[int, StreamHead]]:
        wanted = {stream for item in items for stream in item.streams}
        alive = Exists(Process.objects.using(alias()).alive().filter(pk=OuterRef("process")))
        rows = (
            with_last(Stream.objects.using(alias()).filter(pk__in=wanted).order_by())
            .annotate(alive=alive)
            .values_list(
                "pk",
                "session_id",
                "standalone",
                "request_ids_json",
                "last",
                "finished_at",
                "process",
                "alive",
                "reader",
                "delivered",
                "told",
            )
            if wanted
            else ()
        )
        heads = {
            pk: StreamHead(digest, standalone, ids, last or 0, finished_at is not None, *rest)
            for pk, digest, standalone, ids, last, finished_at, *rest in rows
        }
        return [{stream: heads[stream] for stream in item.streams if stream in heads} for item in items]


@dataclass(slots=True, frozen=True)
class ReadEvents:
    """Up to ``limit`` events of a stream after a sequence, in order, as pairs of sequence and payload."""

    stream: int
    after: int
    limit: int

    @staticmethod
    def serve(items: Sequence[ReadEvents]) -> list[list[tuple[int, str]]]:
        condition = Q()
        for item in items:
            condition |= Q(stream_id=item.stream, sequence__gt=item.after, sequence__lte=item.after + item.limit)
        rows = Event.objects.using(alias()).filter(condition).order_by("stream_id", "sequence")
        found: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for stream, sequence, payload in rows.values_list("stream_id", "sequence", "payload"):
            found[stream].append((sequence, payload))
        return [
            [pair for pair in found[item.stream] if item.after < pair[0] <= item.after + item.limit]
            or item._beyond_gap()
            for item in items
        ]

    def _beyond_gap(self) -> list[tuple[int, str]]:
        """What comes after sequences that were pruned; mostly nothing."""
        events = Event.objects.using(alias()).filter(stream_id=self.stream, sequence__gt=self.after + self.limit)
        return list(events.order_by("sequence").values_list("sequence", "payload")[: self.limit])


@dataclass(slots=True, frozen=True)
class ReadAnswers:
    """The answers (JSON) to those of these questions that were answered."""

    questions: frozenset[uuid.UUID]

    @staticmethod
    def serve(items: Sequence[ReadAnswers]) -> list[dict[uuid.UUID, str]]:
        wanted = {question for item in items for question in item.questions}
        rows = ClientRequest.objects.using(alias()).filter(pk__in=wanted, status=ClientRequest.Status.ANSWERED)
        answers = dict(rows.order_by().values_list("pk", "answer_json"))
        return [{question: answers[question] for question in item.questions if question in answers} for item in items]


@dataclass(slots=True, frozen=True)
class ReadCancellations:
    """The request keys that were cancelled in each of these sessions."""

    digests: frozenset[str]

    @staticmethod
    def serve(items: Sequence[ReadCancellations]) -> list[dict[str, set[str]]]:
        wanted = {digest for item in items for digest in item.digests}
        keys: dict[str, set[str]] = defaultdict(set)
        rows = Cancellation.objects.using(alias()).filter(session_id__in=wanted)
        for digest, key in rows.values_list("session_id", "request_key"):
            keys[digest].add(key)
        return [{digest: keys[digest] for digest in item.digests if digest in keys} for item in items]


@dataclass(slots=True, frozen=True)
class ReadClocks:
    """The number of each server's last notice, 0 if there was none."""

    servers: frozenset[str]

    @staticmethod
    def serve(items: Sequence[ReadClocks]) -> list[dict[str, int]]:
        clocks = {Topic.id_of(server, Topic.Kind.CLOCK): server for item in items for server in item.servers}
        rows = Topic.objects.using(alias()).filter(pk__in=clocks).values_list("pk", "version")
        versions = {clocks[pk]: version for pk, version in rows}
        return [{server: versions.get(server, 0) for server in item.servers} for item in items]


@dataclass(slots=True, frozen=True)
class ReadNotices:
    """A server's notices after a number, in order: of its lists, and of these resources."""

    server: str
    after: int
    uris: frozenset[str]

    @staticmethod
    def serve(items: Sequence[ReadNotices]) -> list[list[Notice]]:
        return [item._read() for item in items]

    def _read(self) -> list[Notice]:
        keys = [Topic.id_of(self.server, Topic.Kind.RESOURCE, uri) for uri in self.uris]
        rows = (
            Topic.objects.using(alias())
            .filter(server=self.server, version__gt=self.after)
            .filter(Q(kind__in=[Topic.Kind.TOOLS, Topic.Kind.PROMPTS, Topic.Kind.RESOURCES]) | Q(pk__in=keys))
        )
        return [Notice(*row) for row in rows.order_by("version", "pk").values_list("kind", "uri", "version")]


def with_last(streams: Any) -> Any:
    """Streams with the sequence of their last event as ``last``."""
    events = Event.objects.using(alias()).filter(stream_id=OuterRef("pk")).order_by("-sequence")
    return streams.annotate(last=Subquery(events.values("sequence")[:1]))
