"""Handles: what a tool has made for its caller, to be handed back in later calls."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django.models.base import DIGEST_LENGTH, SHORT_DIGEST, Stateful, digest_of

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


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
