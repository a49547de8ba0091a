"""Reads of streams, answers, cancellations and notices, as they go through the lane for reads."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Exists, OuterRef, Q, Subquery

from mcp_django.models import Cancellation, ClientRequest, Event, Process, Stream, Topic
from mcp_django.visits import alias


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
