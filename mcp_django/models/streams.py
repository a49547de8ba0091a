"""Streams and their events: append-only logs."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Exists, OuterRef, Q, Subquery
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django.models.base import Row
from mcp_django.models.processes import Process
from mcp_django.models.sessions import Session


class StreamQuerySet(models.QuerySet["Stream"]):
    """Questions about streams."""

    def unfinished(self) -> StreamQuerySet:
        """Exchanges whose last answer has not been written; standalone streams never finish."""
        return self.filter(finished_at=None, standalone=False)

    def finished_before(self, moment: datetime) -> StreamQuerySet:
        """Exchanges that were over at ``moment``."""
        return self.filter(standalone=False, finished_at__lt=moment)

    def orphaned(self, moment: datetime, silence: timedelta) -> StreamQuerySet:
        """Exchanges opened before ``moment`` that nobody will finish: their process has no lease that was renewed
        in the last ``silence``, by the database's clock."""
        seen = Process.objects.seen_within(silence).values("pk")
        return self.unfinished().filter(created_at__lt=moment).exclude(process__in=seen)

    def with_delivered(self, moment: datetime) -> StreamQuerySet:
        """Standalone streams that have :meth:`EventQuerySet.delivered_before`."""
        delivered = Event.objects.filter(stream_id=OuterRef("pk"), sequence__lt=OuterRef("delivered"))
        return self.filter(Exists(delivered.filter(created_at__lt=moment)), standalone=True, delivered__gt=0)


class Stream(Row):
    """One event stream of a session: an append-only log of :class:`Event` rows on which connections are cursors.

    Either an exchange, which answers one POST and is finished with its last answer, or the session's standalone
    stream, of which there is one and which ends with the session.
    """

    id = models.BigIntegerField(_("id"), primary_key=True)
    session = models.ForeignKey(Session, verbose_name=_("session"), on_delete=models.CASCADE, related_name="streams")
    standalone = models.BooleanField(_("standalone"), default=False)
    request_ids_json = models.TextField(_("request ids"), default="[]")
    method = models.CharField(_("method"), max_length=100, blank=True)
    name = models.CharField(_("name"), max_length=200, blank=True)
    process = models.UUIDField(_("producing process"), null=True, blank=True)
    reader = models.UUIDField(
        _("reader"), null=True, blank=True, help_text=_("The connection that took the stream over, if one did.")
    )
    reader_process = models.UUIDField(_("reader's process"), null=True, blank=True)
    told = models.BigIntegerField(
        _("told"), default=0, help_text=_("The server's notices up to this one were known when the reader came.")
    )
    delivered = models.BigIntegerField(
        _("delivered"), default=0, help_text=_("The last event that a standalone stream's reader was handed.")
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    objects: ClassVar[models.Manager[Stream]] = StreamQuerySet.as_manager()

    class Meta:
        verbose_name = _("stream")
        verbose_name_plural = _("streams")
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["finished_at"], name="mcp_stream_finished"),
            models.Index(fields=["process", "finished_at"], name="mcp_stream_process"),
        ]

    def __str__(self) -> str:
        return self.method or "standalone stream"

    @property
    def request_ids(self) -> list[str | int]:
        """The JSON-RPC ids that the exchange answers."""
        return list(json.loads(self.request_ids_json))

    def finish(self) -> bool:
        """Note that the last answer is written. False if somebody else had finished the stream before."""
        return bool(self._rows().filter(finished_at=None).update(finished_at=timezone.now()) == 1)

    def take_over(self, reader: uuid.UUID, process: uuid.UUID, told: int) -> bool:
        """Make ``reader`` the connection that reads the stream, whoever did before. False if the stream is gone."""
        return bool(self._rows().update(reader=reader, reader_process=process, told=told) == 1)

    def take_if_free(self, reader: uuid.UUID, process: uuid.UUID, told: int, *, judge: bool) -> bool:
        """Make ``reader`` the reader unless another connection is.

        Args:
            judge: whether a reader counts as gone if its process has not renewed its lease.
        """
        free = Q(reader=None) | Q(reader=reader)
        if judge:
            free |= ~Q(reader_process__in=Process.objects.alive().values("pk"))
        return bool(self._rows().filter(free).update(reader=reader, reader_process=process, told=told) == 1)

    def release(self, reader: uuid.UUID, told: int) -> bool:
        """The reader's connection is gone. False if another connection had taken the stream over."""
        rows = self._rows().filter(reader=reader)
        return bool(rows.update(reader=None, reader_process=None, told=told) == 1)

    def deliver(self, reader: uuid.UUID, sequence: int) -> bool:
        """Claim the events up to ``sequence`` for ``reader``. False if it is no longer the reader."""
        rows = self._rows().filter(reader=reader, delivered__lt=sequence)
        return bool(rows.update(delivered=sequence) == 1)


class EventQuerySet(models.QuerySet["Event"]):
    """Questions about events."""

    def ahead_of(self, stream: int, sequence: int) -> EventQuerySet:
        """Events that come before this place, in the order of streams and sequences."""
        return self.filter(Q(stream_id__lt=stream) | Q(stream_id=stream, sequence__lt=sequence))

    def delivered_before(self, moment: datetime) -> EventQuerySet:
        """Events of standalone streams, written before ``moment``, that a reader was handed.

        The last one that was handed over is left out: the next sequence is counted from it.
        """
        delivered = Stream.objects.filter(pk=OuterRef("stream_id"), standalone=True).order_by().values("delivered")
        return self.filter(created_at__lt=moment, sequence__lt=Subquery(delivered))

    def stray(self, moment: datetime) -> EventQuerySet:
        """Events written before ``moment`` whose stream is gone: a producer went on writing after it was deleted."""
        return self.filter(~Exists(Stream.objects.filter(pk=OuterRef("stream_id"))), created_at__lt=moment)


class Event(models.Model):
    """One message of a stream, committed before it is sent."""

    pk = models.CompositePrimaryKey("stream_id", "sequence")
    # Without a constraint in the database: checking it for each event costs as much as writing the event.
    stream = models.ForeignKey(
        Stream,
        verbose_name=_("stream"),
        on_delete=models.CASCADE,
        related_name="events",
        db_constraint=False,
        db_index=False,
    )
    sequence = models.BigIntegerField(_("sequence"))
    payload = models.TextField(_("payload"), help_text=_("The JSON-RPC message."))
    created_at = models.DateTimeField(_("created"), default=timezone.now)

    objects: ClassVar[models.Manager[Event]] = EventQuerySet.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return f"event {self.sequence}"
