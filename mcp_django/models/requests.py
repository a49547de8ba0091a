"""Requests that go the other way, or are given up: questions to clients, and cancellations."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django.models.base import Row, digest_of
from mcp_django.models.sessions import Session
from mcp_django.models.streams import Stream

PLAIN_REQUEST_ID = re.compile(r"[a-z0-9_.:-]{1,64}")


class ClientRequestQuerySet(models.QuerySet["ClientRequest"]):
    """Questions about questions."""

    def open(self) -> ClientRequestQuerySet:
        """Those that wait for an answer."""
        return self.filter(status=ClientRequest.Status.ASKED)


class ClientRequest(Row):
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
        rows = self._rows().filter(session_id=self.session_id)
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
