"""Rows. State changes are model methods, each a conditional UPDATE; questions are QuerySet methods.

Nothing here is ever written with ``save()`` after creation: a session that has ended must not come back through
somebody's late write.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import HandlerError

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

DIGEST_LENGTH = 64
SHORT_DIGEST = 12
PLAIN_REQUEST_ID = re.compile(r"[a-z0-9_.:-]{1,64}")


def digest_of(raw_id: str) -> str:
    """The key under which a session is stored: SHA-256 of its id, in hex.

    The id itself is a bearer secret; it is stored and logged nowhere.
    """
    return hashlib.sha256(raw_id.encode("utf-8", "surrogatepass")).hexdigest()


class Stateful(models.Model):
    """A row with a durable state that handlers change: JSON, and a version that every change raises."""

    state_json = models.TextField(_("state"), default="{}")
    state_version = models.PositiveBigIntegerField(_("state version"), default=0)

    class Meta:
        abstract = True

    @property
    def state(self) -> dict[str, Any]:
        """The state, as handlers see it."""
        return _object(self.state_json)

    def _rows(self) -> Any:
        return type(self)._default_manager.using(self._state.db).filter(pk=self.pk)

    def replace_state(self, state_json: str, *, version: int) -> bool:
        """Put a new state in place of the one with this version. False if another came first or the row is over."""
        rows = self._rows().active().filter(state_version=version)
        return bool(rows.update(state_json=state_json, state_version=version + 1) == 1)


class SessionQuerySet(models.QuerySet["Session"]):
    """Questions about sessions, and the one change that is made to many at once."""

    def for_id(self, raw_id: str) -> Session:
        """The session whose ``Mcp-Session-Id`` is ``raw_id``.

        Raises:
            Session.DoesNotExist: there is none.
        """
        return self.get(pk=digest_of(raw_id))

    def active(self, now: datetime | None = None) -> SessionQuerySet:
        """Sessions that answer requests: neither ended nor past their expiry."""
        return self.filter(status=Session.Status.ACTIVE, expires_at__gt=now or timezone.now())

    def ended(self) -> SessionQuerySet:
        """Sessions that were ended by somebody or found expired."""
        return self.exclude(status=Session.Status.ACTIVE)

    def expired(self, now: datetime | None = None) -> SessionQuerySet:
        """Sessions past their expiry, whether or not they are marked so."""
        due = Q(status=Session.Status.ACTIVE, expires_at__lte=now or timezone.now())
        return self.filter(due | Q(status=Session.Status.EXPIRED))

    def overdue(self, now: datetime | None = None) -> SessionQuerySet:
        """Sessions past their expiry that are not marked so."""
        return self.filter(status=Session.Status.ACTIVE, expires_at__lte=now or timezone.now())

    def over_before(self, moment: datetime) -> SessionQuerySet:
        """Sessions that were over at ``moment``: ended, or past their expiry whether or not they are marked so."""
        return self.filter(Q(ended_at__lt=moment) | Q(expires_at__lt=moment))

    def without_streams(self) -> SessionQuerySet:
        """Sessions that no stream belongs to."""
        return self.filter(~Exists(Stream.objects.filter(session_id=OuterRef("pk"))))

    def of_server(self, name: str) -> SessionQuerySet:
        """Sessions of one server."""
        return self.filter(server=name)

    def of_owner(self, user: AbstractBaseUser) -> SessionQuerySet:
        """Sessions that this user opened."""
        return self.filter(owner_id=user.pk)

    def end_all(self, reason: str, status: str = "terminated") -> int:
        """End those that are still active, on every process from its next request on.

        Returns:
            how many were ended by this call.
        """
        return self.filter(status=Session.Status.ACTIVE).update(
            status=status, end_reason=reason[:100], ended_at=timezone.now(), epoch=F("epoch") + 1
        )

    def touch(self, seen_at: datetime, expires_at: datetime) -> int:
        """Move last use and expiry forward, never backward, and only while active."""
        return self.active(seen_at).filter(last_seen_at__lt=seen_at).update(last_seen_at=seen_at, expires_at=expires_at)


class Session(Stateful):
    """One session of a client: what a process needs to go on with it, wherever it was opened."""

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        TERMINATED = "terminated", _("terminated")
        EXPIRED = "expired", _("expired")

    id = models.CharField(
        _("digest"), primary_key=True, max_length=DIGEST_LENGTH, help_text=_("SHA-256 of the session id, in hex.")
    )
    server = models.CharField(_("server"), max_length=100)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="mcp_sessions",
    )
    principal = models.CharField(
        _("principal"), max_length=255, blank=True, help_text=_("Whom the session belongs to; empty if anonymous.")
    )
    initialize_params_json = models.TextField(_("initialize params"))
    protocol_version = models.CharField(_("protocol version"), max_length=20)
    client_name = models.CharField(_("client"), max_length=100, blank=True)
    client_version = models.CharField(_("client version"), max_length=50, blank=True)
    log_level = models.CharField(_("log level"), max_length=20, blank=True)
    subscriptions_json = models.TextField(_("resource subscriptions"), default="[]")
    epoch = models.PositiveBigIntegerField(
        _("epoch"), default=0, help_text=_("Raised by every change that processes hold in memory.")
    )
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.ACTIVE)
    end_reason = models.CharField(_("reason of the end"), max_length=100, blank=True)
    created_at = models.DateTimeField(_("created"))
    initialized_at = models.DateTimeField(_("initialized"), null=True, blank=True)
    last_seen_at = models.DateTimeField(_("last seen"))
    expires_at = models.DateTimeField(_("expires"))
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    restore_count = models.PositiveIntegerField(_("restores"), default=0)
    last_process = models.UUIDField(_("last process"), null=True, blank=True)
    tools_fingerprint = models.CharField(_("tool list fingerprint"), max_length=64, blank=True)

    objects: ClassVar[models.Manager[Session]] = SessionQuerySet.as_manager()

    class Meta:
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        ordering = ["-last_seen_at"]
        indexes = [
            models.Index(fields=["-last_seen_at"], name="mcp_session_last_seen"),
            # Not status first: SQLite without statistics would prefer it to the primary key wherever a batch of
            # sessions is also asked to be active, and read every active row.
            models.Index(fields=["expires_at", "status"], name="mcp_session_expiry"),
            models.Index(fields=["owner", "status"], name="mcp_session_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.short_id} ({self.client_name or 'unknown client'})"

    @property
    def short_id(self) -> str:
        """The beginning of the digest: enough to tell sessions apart, useless as a session id."""
        return self.id[:SHORT_DIGEST]

    @property
    def initialize_params(self) -> dict[str, Any]:
        """The params of the client's ``initialize`` request."""
        return _object(self.initialize_params_json)

    @property
    def subscriptions(self) -> list[str]:
        """The resource URIs that the client subscribed to."""
        return list(json.loads(self.subscriptions_json))

    def _change(self, **columns: Any) -> bool:
        return bool(self._rows().active().update(**columns) == 1)

    def mark_initialized(self, at: datetime) -> bool:
        """The client sent ``notifications/initialized``. False if the session has ended."""
        return self._change(initialized_at=at, epoch=F("epoch") + 1)

    def set_log_level(self, level: str) -> bool:
        """The client chose a log level. False if the session has ended."""
        return self._change(log_level=level, epoch=F("epoch") + 1)

    def change_subscription(self, uri: str, subscribed: bool) -> bool:
        """The client wants to hear of a resource, or no longer. False if the session has ended.

        Raises:
            HandlerError: it would have more than ``MCP_DJANGO_MAX_SUBSCRIPTIONS``.
        """
        using = self._state.db or router.db_for_write(Session)
        with transaction.atomic(using=using):
            # First the update, which locks the row; then what is read, in the same database, is the latest.
            if not self._change(epoch=F("epoch") + 1):
                return False
            before = self._rows().using(using).values_list("subscriptions_json", flat=True).get()
            self._rows().update(subscriptions_json=with_subscription(before, uri, subscribed))
        return True

    def mark_restored(self, process: uuid.UUID, tools_fingerprint: str) -> bool:
        """A process restored the session. False if the session has ended meanwhile.

        The epoch stays: what other processes hold of this session is still true.
        """
        return self._change(
            restore_count=F("restore_count") + 1, last_process=process, tools_fingerprint=tools_fingerprint
        )

    def end(self, reason: str, status: str = "terminated") -> bool:
        """End the session everywhere. False if it had ended before."""
        return bool(self._rows().end_all(reason, status) == 1)


class StoredHandleQuerySet(models.QuerySet["StoredHandle"]):
    """Questions about handles, and the changes that are made to many at once."""

    def for_text(self, text: str) -> StoredHandle:
        """The handle that tools and models write as ``text``.

        Raises:
            StoredHandle.DoesNotExist: there is none.
        """
        return self.get(pk=digest_of(text))

    def active(self, now: datetime | None = None) -> StoredHandleQuerySet:
        """Handles that can be used: those that are not past their expiry. What is ended is deleted."""
        return self.filter(expires_at__gt=now or timezone.now())

    def expired(self, now: datetime | None = None) -> StoredHandleQuerySet:
        """Handles past their expiry."""
        return self.filter(expires_at__lte=now or timezone.now())

    def of_server(self, name: str) -> StoredHandleQuerySet:
        """Handles of one server."""
        return self.filter(server=name)

    def of_owner(self, user: AbstractBaseUser) -> StoredHandleQuerySet:
        """Handles that were made for this user."""
        return self.filter(owner_id=user.pk)

    def end_all(self) -> int:
        """End those that are active: nobody can use them any more, and their states are deleted.

        Returns:
            how many were ended by this call.
        """
        _total, deleted = self.active().delete()
        return deleted.get(StoredHandle._meta.label, 0)

    def touch(self, used_at: datetime, expires_at: datetime) -> int:
        """Move last use and expiry forward, never backward, and only while active."""
        return self.active(used_at).filter(used_at__lt=used_at).update(used_at=used_at, expires_at=expires_at)


class StoredHandle(Stateful):
    """One :class:`mcp_django.Handle`: what a tool has made for its caller, to be handed back in later calls."""

    id = models.CharField(
        _("digest"), primary_key=True, max_length=DIGEST_LENGTH, help_text=_("SHA-256 of the handle's text, in hex.")
    )
    server = models.CharField(_("server"), max_length=100)
    kind = models.CharField(_("kind"), max_length=50)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="mcp_handles",
    )
    principal = models.CharField(
        _("principal"), max_length=255, blank=True, help_text=_("Whom the handle belongs to; empty if anonymous.")
    )
    created_at = models.DateTimeField(_("created"))
    used_at = models.DateTimeField(_("last used"))
    expires_at = models.DateTimeField(_("expires"))

    objects: ClassVar[models.Manager[StoredHandle]] = StoredHandleQuerySet.as_manager()

    class Meta:
        verbose_name = _("handle")
        verbose_name_plural = _("handles")
        ordering = ["-used_at"]
        indexes = [
            models.Index(fields=["-used_at"], name="mcp_handle_used"),
            models.Index(fields=["expires_at"], name="mcp_handle_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.short_id}"

    @property
    def short_id(self) -> str:
        """The beginning of the digest: enough to tell handles apart, useless as a handle."""
        return self.id[:SHORT_DIGEST]

    def end(self) -> bool:
        """End the handle everywhere, and delete its state. False if it was over before."""
        return bool(self._rows().end_all() == 1)


class ProcessQuerySet(models.QuerySet["Process"]):
    """Questions about processes."""

    def alive(self) -> ProcessQuerySet:
        """Those that renewed their lease in time, by the database's clock."""
        return self.seen_within(Process.LEASE)

    def seen_within(self, period: timedelta) -> ProcessQuerySet:
        """Those that renewed their lease in the last ``period``, by the database's clock."""
        return self.filter(seen_at__gt=Now() - period)

    def silent_for(self, period: timedelta) -> ProcessQuerySet:
        """Those that did not, for longer than ``period``."""
        return self.filter(seen_at__lt=Now() - period)


class Process(models.Model):
    """One server process. Its row is a lease that the process renews while it lives."""

    # Who follows a stream of a killed process is to hear of it within 15 s, the look at the leases included.
    LEASE: ClassVar[timedelta] = timedelta(seconds=12)

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveBigIntegerField(_("process id"))
    version = models.CharField(_("version"), max_length=50)
    started_at = models.DateTimeField(_("started"), db_default=Now())
    seen_at = models.DateTimeField(_("last seen"), db_default=Now())

    objects: ClassVar[models.Manager[Process]] = ProcessQuerySet.as_manager()

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")
        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"

    def renew(self) -> bool:
        """Renew the lease by the database's clock. False if the row is gone."""
        rows = type(self)._default_manager.using(self._state.db).filter(pk=self.pk)
        return rows.update(seen_at=Now()) == 1


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


class Stream(models.Model):
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

    def _rows(self) -> Any:
        return type(self)._default_manager.using(self._state.db).filter(pk=self.pk)

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


class ClientRequestQuerySet(models.QuerySet["ClientRequest"]):
    """Questions about questions."""

    def open(self) -> ClientRequestQuerySet:
        """Those that wait for an answer."""
        return self.filter(status=ClientRequest.Status.ASKED)


class ClientRequest(models.Model):
    """A request of the server to a client: elicitation, sampling, roots, ping. Its id is the JSON-RPC id."""

    class Status(models.TextChoices):
        ASKED = "asked", _("asked")
        ANSWERED = "answered", _("answered")
        ABANDONED = "abandoned", _("abandoned")

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(
        Session, verbose_name=_("session"), on_delete=models.CASCADE, related_name="client_requests"
    )
    stream = models.ForeignKey(
        Stream,
        verbose_name=_("stream"),
        on_delete=models.CASCADE,
        related_name="client_requests",
        db_constraint=False,
    )
    method = models.CharField(_("method"), max_length=100)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.ASKED)
    answer_json = models.TextField(_("answer"), blank=True)
    asked_at = models.DateTimeField(_("asked"), default=timezone.now)
    settled_at = models.DateTimeField(_("settled"), null=True, blank=True)

    objects: ClassVar[models.Manager[ClientRequest]] = ClientRequestQuerySet.as_manager()

    class Meta:
        verbose_name = _("client request")
        verbose_name_plural = _("client requests")
        ordering = ["-asked_at"]

    def __str__(self) -> str:
        return self.method

    def _settle(self, **columns: Any) -> bool:
        rows: Any = type(self)._default_manager.using(self._state.db).filter(pk=self.pk, session_id=self.session_id)
        return bool(rows.open().update(settled_at=timezone.now(), **columns) == 1)

    def answer(self, answer_json: str) -> bool:
        """Keep the client's answer. False if the question was answered or abandoned before, or is not of this
        session."""
        return self._settle(status=self.Status.ANSWERED, answer_json=answer_json)

    def abandon(self) -> bool:
        """Nobody waits for the answer any more. False if it came first."""
        return self._settle(status=self.Status.ABANDONED)


class CancellationQuerySet(models.QuerySet["Cancellation"]):
    """Questions about cancellations."""

    def made_before(self, moment: datetime) -> CancellationQuerySet:
        """Those that were made before ``moment``."""
        return self.filter(created_at__lt=moment)


class Cancellation(models.Model):
    """A client's wish that one of its requests be given up, for whichever process runs it."""

    session = models.ForeignKey(
        Session, verbose_name=_("session"), on_delete=models.CASCADE, related_name="cancellations"
    )
    request_key = models.CharField(_("request id"), max_length=100, help_text=_('"7" and 7 are one.'))
    created_at = models.DateTimeField(_("created"), default=timezone.now)

    objects: ClassVar[models.Manager[Cancellation]] = CancellationQuerySet.as_manager()

    class Meta:
        verbose_name = _("cancellation")
        verbose_name_plural = _("cancellations")
        constraints = [
            models.UniqueConstraint(fields=["session", "request_key"], name="mcp_cancellation_of_request"),
        ]

    def __str__(self) -> str:
        return self.request_key

    @staticmethod
    def key_of(request_id: str | int) -> str:
        """A request id as it is stored: its text, or a digest if that is long or some collations take it for another
        ("a" for "A" or "a ")."""
        text = str(request_id)
        return text if PLAIN_REQUEST_ID.fullmatch(text) else f"sha256:{digest_of(text)}"


class Topic(models.Model):
    """Something that notices are about, and the number of the last one.

    Numbers come from the server's clock, a topic as well, which is raised first and stays locked until the commit:
    so they are committed in their order, and who has seen the clock at a number has seen every notice up to it.
    """

    class Kind(models.TextChoices):
        CLOCK = "clock", _("clock")
        TOOLS = "tools", _("tool list")
        PROMPTS = "prompts", _("prompt list")
        RESOURCES = "resources", _("resource list")
        RESOURCE = "resource", _("resource")

    id = models.CharField(_("digest"), primary_key=True, max_length=DIGEST_LENGTH)
    server = models.CharField(_("server"), max_length=100)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    uri = models.TextField(_("URI"), blank=True)
    version = models.BigIntegerField(_("version"), default=0)
    raised_at = models.DateTimeField(_("raised"), default=timezone.now)

    class Meta:
        verbose_name = _("topic")
        verbose_name_plural = _("topics")
        indexes = [models.Index(fields=["server", "version"], name="mcp_topic_version")]

    def __str__(self) -> str:
        return self.uri or self.kind

    @staticmethod
    def id_of(server: str, kind: str, uri: str = "") -> str:
        """The key of a topic: URIs are too long for an index, and some collations mix them up."""
        return digest_of(json.dumps([server, kind, uri]))

    def raise_to(self, version: int) -> None:
        """Note a notice about this topic, with a number from the clock."""
        values = {"version": version, "raised_at": timezone.now()}
        rows = type(self)._default_manager.using(self._state.db)
        if not rows.filter(pk=self.pk, version__lt=version).update(**values):
            rows.get_or_create(
                pk=self.pk, defaults={"server": self.server, "kind": self.kind, "uri": self.uri, **values}
            )


def with_subscription(subscriptions_json: str, uri: str, subscribed: bool) -> str:
    """A session's resource subscriptions with one URI put in or taken out.

    Raises:
        HandlerError: there would be more than ``MCP_DJANGO_MAX_SUBSCRIPTIONS``.
    """
    uris = [kept for kept in json.loads(subscriptions_json) if kept != uri]
    if subscribed:
        uris.append(uri)
    if subscribed and len(uris) > mcp_settings.MAX_SUBSCRIPTIONS:
        raise HandlerError(
            f"A session may subscribe to {mcp_settings.MAX_SUBSCRIPTIONS} resources at most "
            "(MCP_DJANGO_MAX_SUBSCRIPTIONS). Unsubscribe from others first."
        )
    return jsonrpc.canonical(uris)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
