"""Rows as django-oauth-toolkit makes them."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone
from oauth2_provider.models import get_access_token_model, get_application_model, set_token_value

from mcp_django.models import digest_of

RESOURCE = "http://testserver/guarded/mcp"


def application(name: str) -> Any:
    """A client, made at its first mention."""
    model = get_application_model()
    made, _new = model.objects.get_or_create(
        client_id=name,
        defaults={
            "name": name.title(),
            "client_type": "public",
            "authorization_grant_type": "authorization-code",
            "redirect_uris": "http://127.0.0.1/callback",
            # One that is named by a URL: its document was read just now.
            "registration_source": "cimd" if name.startswith("https:") else "manual",
            "cimd_expires_at": timezone.now() + timedelta(hours=1) if name.startswith("https:") else None,
        },
    )
    return made


def token(
    user: str | None = "alice",
    client: str | None = "desktop",
    *,
    resource: Any = (RESOURCE,),
    scope: str = "library:read",
    lives: timedelta = timedelta(minutes=5),
) -> str:
    """An access token, its row written. No user: of the client itself."""
    raw = secrets.token_urlsafe(24)
    row = get_access_token_model()(
        user=User.objects.get_or_create(username=user)[0] if user else None,
        application=application(client) if client else None,
        expires=timezone.now() + lives,
        scope=scope,
        resource=list(resource),
    )
    set_token_value(row, raw)
    row.save()
    return raw


def row_of(raw: str) -> Any:
    """The rows of a token, none or one."""
    return get_access_token_model().objects.filter(token_checksum=digest_of(raw))


def forget() -> None:
    """Remove all that was made here and is no user's."""
    get_access_token_model().objects.all().delete()
    get_application_model().objects.all().delete()
