"""Rows. State changes are model methods, each a conditional UPDATE; questions are QuerySet methods.

Nothing here is ever written with ``save()`` after creation: a session that has ended must not come back through
somebody's late write.
"""

from __future__ import annotations

from mcp_django.models.base import DIGEST_LENGTH, SHORT_DIGEST, Stateful, digest_of
from mcp_django.models.handles import StoredHandle, StoredHandleQuerySet
from mcp_django.models.processes import Process, ProcessQuerySet
from mcp_django.models.requests import Cancellation, ClientRequest
from mcp_django.models.sessions import Session, SessionQuerySet, with_subscription
from mcp_django.models.streams import Event, Stream
from mcp_django.models.topics import Topic

__all__ = [
    "DIGEST_LENGTH",
    "SHORT_DIGEST",
    "Cancellation",
    "ClientRequest",
    "Event",
    "Process",
    "ProcessQuerySet",
    "Session",
    "SessionQuerySet",
    "Stateful",
    "StoredHandle",
    "StoredHandleQuerySet",
    "Stream",
    "Topic",
    "digest_of",
    "with_subscription",
]
