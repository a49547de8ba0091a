"""Processes: who is alive."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mcp_django.models.base import Row


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


class Process(Row):
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
        return bool(self._rows().update(seen_at=Now()) == 1)
