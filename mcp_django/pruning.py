"""Pruning: what is over for longer than its retention is deleted, beside running servers. Synchronous.

The command ``clearmcpsessions``, the task in :mod:`mcp_django.tasks` and projects call :func:`prune`. Rows go in
batches, each in a short transaction of its own, children before parents: a run may be stopped at any moment, and two
may run at once.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from django.apps import apps
from django.db import OperationalError, connections, router, transaction
from django.db.models import Model
from django.utils import timezone

from mcp_django.conf import mcp_settings
from mcp_django.models import Cancellation, ClientRequest, Event, Process, Session, StoredHandle, Stream
from mcp_django.visits import alias

PROCESS_RETENTION: Final = timedelta(days=1)
END_REASON: Final = "unused for too long"
ATTEMPTS: Final = 5
NOBODY: Final = uuid.UUID(int=0)
# Parameters of a statement beside its keys (sessions', streams', or both), generously counted.
OTHER_PARAMETERS: Final = 32

_Counts: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many rows a run has deleted, or would have; ``expired`` are the sessions that it marked as expired."""

    expired: int = 0
    sessions: int = 0
    streams: int = 0
    events: int = 0
    client_requests: int = 0
    cancellations: int = 0
    handles: int = 0
    tokens: int = 0
    processes: int = 0

    def __str__(self) -> str:
        """One line, as in ``expired: 2, sessions: 1, streams: 10, ...``."""
        return ", ".join(f"{field.name.replace('_', ' ')}: {getattr(self, field.name)}" for field in fields(self))


def prune(*, dry_run: bool = False, batch: int = 1000, now: datetime | None = None) -> Pruned:
    """Mark overdue sessions as expired, and delete what is over for longer than its retention.

    Args:
        dry_run: only count what would be changed and deleted.
        batch: how many rows a transaction deletes at most.
        now: the moment to reckon from, instead of the present. Leases go by the database's clock all the same.

    Raises:
        ValueError: ``batch`` is less than 1.
        ImproperlyConfigured: a retention is set to a wrong value.
        DatabaseError: the database refused, again and again if it was for a deadlock or a lock.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch!r}.")
    leavings = Leavings.at(now or timezone.now())
    if dry_run:
        return leavings.count()
    run = _Run(leavings, batch)
    run.prune()
    return Pruned(**run.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leavings:
    """What there is to prune, as QuerySets."""

    overdue: Any
    sessions: Any
    finished: Any
    orphaned: Any
    delivered_streams: Any
    delivered: Any
    stray: Any
    cancellations: Any
    handles: Any
    tokens: Any
    processes: Any

    @classmethod
    def at(cls, now: datetime) -> Leavings:
        """As seen at ``now``."""
        using = alias()
        retention = mcp_settings.STREAM_RETENTION
        before = now - retention
        return cls(
            overdue=Session.objects.using(using).overdue(now),
            sessions=Session.objects.using(using).over_before(now - mcp_settings.TOMBSTONE_RETENTION)
            | Session.objects.using(using).left_half_open(now),
            finished=Stream.objects.using(using).finished_before(before),
            # Not as soon as the lease has run out: a stream whose producer died is kept as long as one that is
            # finished, and after an outage of the database every lease has run out while its process lives.
            orphaned=Stream.objects.using(using).orphaned(before, Process.LEASE + retention),
            delivered_streams=Stream.objects.using(using).with_delivered(before),
            delivered=Event.objects.using(using).delivered_before(before),
            stray=Event.objects.using(using).stray(before),
            cancellations=Cancellation.objects.using(using).made_before(before),
            handles=StoredHandle.objects.using(using).expired(now),
            tokens=tokens_over_before(now - mcp_settings.TOMBSTONE_RETENTION),
            # Never before its streams: a process without a row counts as dead.
            processes=Process.objects.using(using).silent_for(Process.LEASE + max(PROCESS_RETENTION, retention)),
        )

    def count(self) -> Pruned:
        """How many rows :func:`prune` would change and delete now."""
        using = alias()
        sessions = self.sessions.order_by().values("pk")
        streams = self.finished | self.orphaned | Stream.objects.using(using).filter(session_id__in=sessions)
        stream_ids = streams.order_by().values("pk")
        events = Event.objects.using(using).filter(stream_id__in=stream_ids)
        requests = ClientRequest.objects.using(using)
        cancellations = Cancellation.objects.using(using).filter(session_id__in=sessions)
        return Pruned(
            expired=self.overdue.count(),
            sessions=self.sessions.count(),
            streams=streams.count(),
            events=events.count() + self.delivered.exclude(stream_id__in=stream_ids).count() + self.stray.count(),
            client_requests=(
                requests.filter(stream_id__in=stream_ids) | requests.filter(session_id__in=sessions)
            ).count(),
            cancellations=(self.cancellations | cancellations).count(),
            handles=self.handles.count(),
            tokens=self.tokens.count() if self.tokens is not None else 0,
            processes=self.processes.count(),
        )


def tokens_over_before(moment: datetime) -> Any:
    """Tokens that were revoked or expired before ``moment``; None where their app is not installed."""
    if not apps.is_installed("mcp_django.tokens"):
        return None
    tokens: Any = apps.get_model("mcp_tokens", "Token")
    return tokens.objects.using(router.db_for_write(tokens)).over_before(moment)


class _Run:
    """One run. It goes through what there is in the order of primary keys, so that two runs lock rows in one order."""

    def __init__(self, leavings: Leavings, batch: int) -> None:
        self.counts: Counter[str] = Counter()
        self._leavings = leavings
        self._alias = alias()
        self._features = connections[self._alias].features
        limit = self._features.max_query_params
        self._batch = batch if limit is None else max(1, min(batch, (limit - OTHER_PARAMETERS) // 2))

    def prune(self) -> None:
        left = self._leavings
        for page in self._pages(left.overdue):
            self._commit(partial(self._expire, page))
        self._delete_streams(left.finished)
        self._delete_streams(left.orphaned)
        self._delete_events(left.delivered, self._pages(left.delivered_streams))
        self._delete_events(left.stray, self._pages(left.stray, "stream_id"))
        for page in self._pages(left.cancellations):
            self._commit(partial(self._delete_rows, "cancellations", left.cancellations, page))
        for page in self._pages(left.sessions):
            self._delete_streams(self._of(Stream).filter(session_id__in=page))
            self._commit(partial(self._delete_sessions, page))
        for page in self._pages(left.handles):
            self._commit(partial(self._delete_handles, page))
        if left.tokens is not None:
            # By the ORM, as with sessions; they may be in a database of their own.
            _total, deleted = left.tokens.delete()
            self.counts["tokens"] += deleted.get(left.tokens.model._meta.label, 0)
        for page in self._pages(left.processes):
            self._commit(partial(self._delete_rows, "processes", left.processes, page))

    def _delete_streams(self, streams: Any) -> None:
        """Delete streams and what belongs to them; of many events, the first batches go ahead."""
        for page in self._pages(streams):
            while page and (edge := self._edge(self._of(Event).filter(stream_id__in=page))) is not None:
                self._commit(partial(self._delete_ahead, streams, page, edge))
            self._commit(partial(self._delete_stream_rows, streams, page))

    def _delete_events(self, events: Any, pages: Iterator[list[Any]]) -> None:
        """Delete events whose streams stay, or are gone already; ``pages`` are the ids of these streams.

        Without the ids some databases would go through the whole table each time, and lock it.
        """
        for page in pages:
            found = events.filter(stream_id__in=page)
            while (edge := self._edge(found)) is not None:
                self._commit(partial(self._raw_delete, "events", found.ahead_of(*edge)))
            self._commit(partial(self._raw_delete, "events", found))

    # What one transaction does; each returns how many rows of what it has changed.

    def _expire(self, page: list[Any]) -> _Counts:
        self._claim(self._leavings.overdue, page)
        return {"expired": self._of(Session).filter(pk__in=page).end_all(END_REASON, Session.Status.EXPIRED)}

    def _delete_ahead(self, streams: Any, page: list[Any], edge: tuple[int, int]) -> _Counts:
        self._claim(streams, page)
        return self._raw_delete("events", self._of(Event).filter(stream_id__in=page).ahead_of(*edge))

    def _delete_stream_rows(self, streams: Any, page: list[Any]) -> _Counts:
        self._claim(streams, page)
        return {
            **self._raw_delete("events", self._of(Event).filter(stream_id__in=page)),
            **self._raw_delete("client_requests", self._of(ClientRequest).filter(stream_id__in=page)),
            **self._raw_delete("streams", self._of(Stream).filter(pk__in=page)),
        }

    def _delete_sessions(self, page: list[Any]) -> _Counts:
        # A stream that is still there is being deleted by another run, which will delete its session as well.
        self._claim(self._leavings.sessions.without_streams(), page)
        counts: dict[str, int] = {
            **self._raw_delete("client_requests", self._of(ClientRequest).filter(session_id__in=page)),
            **self._raw_delete("cancellations", self._of(Cancellation).filter(session_id__in=page)),
        }
        # By the ORM, since a project may have foreign keys to sessions.
        _total, deleted = self._of(Session).filter(pk__in=page).delete()
        return counts | {"sessions": deleted.get(Session._meta.label, 0)}

    def _delete_handles(self, page: list[Any]) -> _Counts:
        # One that is being used right now has moved its expiry; by the ORM, as with sessions.
        self._claim(self._leavings.handles, page)
        _total, deleted = self._of(StoredHandle).filter(pk__in=page).delete()
        return {"handles": deleted.get(StoredHandle._meta.label, 0)}

    def _delete_rows(self, name: str, rows: Any, page: list[Any]) -> _Counts:
        self._claim(rows, page)
        return self._raw_delete(name, self._of(rows.model).filter(pk__in=page))

    def _raw_delete(self, name: str, rows: Any) -> _Counts:
        # None if the query is empty by construction.
        return {name: rows.order_by()._raw_delete(self._alias) or 0}

    def _claim(self, rows: Any, page: list[Any]) -> None:
        """Lock the rows of a page that still are what they were found to be; the others leave the page. Those that
        another run holds leave it too: that run goes on with them."""
        rows = rows.filter(pk__in=page).order_by("pk")
        if self._features.has_select_for_update:
            rows = rows.select_for_update(skip_locked=self._features.has_select_for_update_skip_locked)
        else:
            # SQLite has one lock, and may refuse it to a transaction that begins with a read: a write of no row.
            self._of(Process).filter(pk=NOBODY).update(pid=0)
        page[:] = rows.values_list("pk", flat=True)

    def _pages(self, rows: Any, key: str = "pk") -> Iterator[list[Any]]:
        """The keys of rows, a batch at a time. None comes twice, whether or not its row was deleted."""
        keys = rows.order_by(key).values_list(key, flat=True).distinct()
        page = list(keys[: self._batch])
        while page:
            last = page[-1]
            yield page
            page = list(keys.filter(**{f"{key}__gt": last})[: self._batch])

    def _edge(self, events: Any) -> tuple[int, int] | None:
        """The stream and sequence of the first event that is too many for one batch."""
        places = events.order_by("stream_id", "sequence").values_list("stream_id", "sequence")
        return next(iter(places[self._batch : self._batch + 1]), None)

    def _of(self, model: type[Model]) -> Any:
        return model._default_manager.using(self._alias)

    def _commit(self, step: Callable[[], _Counts]) -> None:
        """Run a step in a transaction, again if it met a deadlock or a lock, and count what it did."""
        attempts = ATTEMPTS
        while True:
            try:
                with transaction.atomic(using=self._alias):
                    counts = step()
                break
            except OperationalError:
                attempts -= 1
                if not attempts or connections[self._alias].in_atomic_block:
                    raise
        self.counts.update(counts)
