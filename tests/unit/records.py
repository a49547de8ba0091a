"""Sessions and handles to put into stores and tables."""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from mcp_django.handle_batches import HandleRecord
from mcp_django.models import Session, StoredHandle, digest_of
from mcp_django.store import SessionRecord

TTL = timedelta(days=14)
PARAMS = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "unit", "version": "1.0"},
}


def fields(digest: str | None = None, **changes: Any) -> dict[str, Any]:
    """The fields of a new session, as the transport would fill them, with some changed."""
    now: datetime = changes.pop("now", timezone.now())
    return {
        "digest": digest or digest_of(secrets.token_urlsafe()),
        "server": "default",
        "principal": "",
        "owner_id": None,
        "initialize_params_json": json.dumps(PARAMS),
        "protocol_version": "2025-11-25",
        "client_name": "unit",
        "client_version": "1.0",
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + TTL,
        "last_process": uuid.uuid4(),
    } | changes


def record(digest: str | None = None, **changes: Any) -> SessionRecord:
    """A new session's record."""
    return SessionRecord(**fields(digest, **changes))


def row(digest: str | None = None, **changes: Any) -> Session:
    """A new session's row."""
    values = fields(digest, **changes)
    return Session.objects.create(pk=values.pop("digest"), **values)


def handle_record(digest: str | None = None, **changes: Any) -> HandleRecord:
    """A new handle's record."""
    now: datetime = changes.pop("now", timezone.now())
    values = {
        "digest": digest or digest_of(secrets.token_urlsafe()),
        "server": "default",
        "kind": "reading_list",
        "principal": "",
        "owner_id": None,
        "state_json": "{}",
        "created_at": now,
        "expires_at": now + TTL,
    }
    return HandleRecord(**(values | changes))


def handle_row(digest: str | None = None, **changes: Any) -> StoredHandle:
    """A new handle's row."""
    used_at = changes.pop("used_at", None)
    values = asdict(handle_record(digest, **changes))
    return StoredHandle.objects.create(pk=values.pop("digest"), used_at=used_at or values["created_at"], **values)


def columns(session: Session) -> dict[str, Any]:
    """Every column of a row as it is in the database now."""
    return dict(Session.objects.values().get(pk=session.pk))
