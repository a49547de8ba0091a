"""Tokens: who may call as whom, and for how long."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django.access import SCOPE
from mcp_django.models.base import DIGEST_LENGTH, SHORT_DIGEST, Row, digest_of

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

PREFIX: Final = "mcpt_"
"""What tokens begin with, so that one that got into a repository or a log is found by whoever scans for secrets."""

ENTROPY_BYTES: Final = 32


def new_token() -> str:
    """A token that nobody has. It is shown to its owner, and stored and logged nowhere."""
    return PREFIX + secrets.token_urlsafe(ENTROPY_BYTES)


def validate_scopes(text: str) -> None:
    """See that a text is a list of scopes, separated by spaces.

    Raises:
        ValidationError: it is none.
    """
    scopes_text(text.split())


def scopes_text(scopes: Collection[str]) -> str:
    """Scopes as they are stored, each once.

    Raises:
        ValidationError: one is no scope (RFC 6749, 3.3).
        TypeError: they are no list.
    """
    if isinstance(scopes, str):
        raise TypeError(f"scopes takes a list of scopes, it was given {scopes!r}.")
    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            text = _("%(scope)r is no scope: it has spaces, quotes, backslashes or letters beyond ASCII, or is empty.")
            raise ValidationError(text, "scope", {"scope": scope})
    return " ".join(dict.fromkeys(scopes))


class TokenQuerySet(models.QuerySet["Token"]):
    """Questions about tokens, and the changes that are made to several at once."""

    def for_token(self, raw_token: str) -> Token:
        """The row of a token, whether or not it is still valid.

        Raises:
            Token.DoesNotExist: there is none.
        """
        return self.get(pk=digest_of(raw_token))

    def active(self, now: datetime | None = None) -> TokenQuerySet:
        """Tokens that are neither revoked nor past their expiry. Whether their users are active is not asked."""
        moment = now or timezone.now()
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=moment), revoked_at=None)

    def over(self, now: datetime | None = None) -> TokenQuerySet:
        """Tokens that were revoked or are past their expiry."""
        return self.filter(Q(revoked_at__isnull=False) | Q(expires_at__lte=now or timezone.now()))

    def over_before(self, moment: datetime) -> TokenQuerySet:
        """Tokens that were revoked or past their expiry at ``moment``."""
        return self.filter(Q(revoked_at__lt=moment) | Q(expires_at__lt=moment))

    def of_user(self, user: AbstractBaseUser) -> TokenQuerySet:
        """Tokens that were made for this user."""
        return self.filter(user_id=user.pk)

    def revoke_all(self) -> int:
        """Revoke those that are still active, for every process from its next request on.

        Returns:
            how many were revoked by this call.
        """
        now = timezone.now()
        return self.active(now).update(revoked_at=now)

    def touch(self, used_at: datetime, resolution: timedelta) -> int:
        """Note a use, unless one is noted that is less than this much older."""
        stale = Q(last_used_at=None) | Q(last_used_at__lte=used_at - resolution)
        return self.filter(stale).update(last_used_at=used_at)

    def issue(
        self,
        user: AbstractBaseUser,
        *,
        name: str = "",
        server: str = "",
        scopes: Collection[str] = (),
        expires_at: datetime | None = None,
    ) -> tuple[Token, str]:
        """Make a token.

        Args:
            name: what it is for, as its owner would say.
            server: the name of the only server that it is valid on; all of the project's by default.
            scopes: what it is limited to; by default it is not limited by scopes.
            expires_at: when it ends; never by default.

        Returns:
            the row, and the token itself, which cannot be had again.

        Raises:
            ValidationError: a scope is no scope.
        """
        raw_token = new_token()
        row = self.create(
            pk=digest_of(raw_token),
            user_id=user.pk,
            name=name,
            server=server,
            scopes=scopes_text(scopes),
            expires_at=expires_at,
        )
        return row, raw_token


class Token(Row):
    """A bearer token by which a client calls as a user."""

    class State(models.TextChoices):
        ACTIVE = "active", _("active")
        EXPIRED = "expired", _("expired")
        REVOKED = "revoked", _("revoked")

    id = models.CharField(
        _("digest"), primary_key=True, max_length=DIGEST_LENGTH, help_text=_("SHA-256 of the token, in hex.")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.CASCADE,
        related_name="mcp_tokens",
        help_text=_("Whoever has the token calls as this user."),
    )
    name = models.CharField(
        _("name"), max_length=100, blank=True, help_text=_("What it is for, as in “laptop” or “nightly report”.")
    )
    server = models.CharField(
        _("server"), max_length=100, blank=True, help_text=_("The only server that it is valid on; empty for all.")
    )
    scopes = models.TextField(
        _("scopes"),
        blank=True,
        validators=[validate_scopes],
        help_text=_("Separated by spaces. If empty, the token is not limited by scopes."),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True, help_text=_("Never if empty."))
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)

    objects: ClassVar[models.Manager[Token]] = TokenQuerySet.as_manager()

    class Meta:
        verbose_name = _("token")
        verbose_name_plural = _("tokens")
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["-created_at"], name="mcp_token_created")]

    def __str__(self) -> str:
        return f"{self.name} ({self.short_id})" if self.name else self.short_id

    @property
    def short_id(self) -> str:
        """The beginning of the digest: enough to tell tokens apart, useless as a token."""
        return self.id[:SHORT_DIGEST]

    @property
    def state(self) -> State:
        """What has become of it, by now."""
        if self.revoked_at is not None:
            return Token.State.REVOKED
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return Token.State.EXPIRED
        return Token.State.ACTIVE

    def revoke(self) -> bool:
        """Revoke the token everywhere. False if it was revoked or over before."""
        return bool(self._rows().revoke_all() == 1)
