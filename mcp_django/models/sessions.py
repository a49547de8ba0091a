"""Sessions: what a process needs to go on with one, and how one ends."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import HandlerError
from mcp_django.models.base import DIGEST_LENGTH, SHORT_DIGEST, Stateful, digest_of, object_of

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


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

    def half_open(self, before: datetime) -> SessionQuerySet:
        """Sessions that came into being before ``before`` and whose clients never said that they are initialized."""
        return self.filter(initialized_at=None, created_at__lt=before)

    def left_half_open(self, now: datetime) -> SessionQuerySet:
        """Those of them that nobody used in time."""
        return self.half_open(now).filter(expires_at__lt=now, last_seen_at=F("created_at"))

    def of_quota(self, quota: str) -> SessionQuerySet:
        """Sessions that count for one caller."""
        return self.filter(quota=quota)

    def idle(self) -> SessionQuerySet:
        """Sessions without a stream that somebody reads or that a call still feeds, as far as rows tell."""
        streams: Any = Session._meta.get_field("streams").related_model
        at_work = streams.objects.filter(session_id=OuterRef("pk"), finished_at=None)
        return self.filter(~Exists(at_work.filter(Q(standalone=False) | Q(reader__isnull=False))))

    def without_streams(self) -> SessionQuerySet:
        """Sessions that no stream belongs to."""
        streams: Any = Session._meta.get_field("streams").related_model
        return self.filter(~Exists(streams.objects.filter(session_id=OuterRef("pk"))))

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
    quota = models.CharField(
        _("quota"),
        max_length=64,
        blank=True,
        default="",
        # Beside this code, that of the release before goes on to write rows.
        db_default="",
        help_text=_("For whom the session counts: a digest of the principal, or of an anonymous caller's address."),
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
            models.Index(fields=["quota", "status", "expires_at"], name="mcp_session_quota"),
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
        return object_of(self.initialize_params_json)

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
