"""Event streams as bytes: frames, and the event ids by which clients resume. Pure; no ORM.

An event id is opaque to clients: it names the stream and the place in it, and is sealed for one session, so that a
forged, truncated or foreign one is known without a look into the database.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from django.conf import settings
from django.utils.crypto import salted_hmac

from mcp_django.jsonrpc import RequestId, line

KEEP_ALIVE: Final = b": keep-alive\n\n"
MAX_EVENT_ID: Final = 512
MAX_REQUEST_IDS: Final = 64

_PLACE: Final = Struct(">QQQ")
_SEAL_BYTES: Final = 8


class Place(NamedTuple):
    """A place in a stream.

    Args:
        stream: the stream's id. sequence: of the last event that the client has; 0 before the first.
        told: the number of the last notice that the client has; 0 except on standalone streams.
        request_ids: what the stream answers, so that a request can be told that its stream is no longer kept.
    """

    stream: int
    sequence: int
    told: int = 0
    request_ids: tuple[RequestId, ...] = ()


class Last(bytes):
    """The bytes after which a stream sends no more, so that its end can leave together with them."""

    __slots__ = ()


class EventIds:
    """Makes and reads the event ids of one stream of one session.

    Args:
        digest: of the session. stream: the stream's id.
        request_ids: what the stream answers; left out of the ids if they would make them long.
    """

    __slots__ = ("_base", "_stream", "_tail")

    def __init__(self, digest: str, stream: int, request_ids: tuple[RequestId, ...] = ()) -> None:
        ids = line(request_ids).encode() if request_ids else b""
        self._tail = ids if len(ids) <= MAX_REQUEST_IDS else b""
        self._stream = stream
        self._base = _sealer(settings.SECRET_KEY, digest)

    def at(self, sequence: int, told: int = 0) -> str:
        """The id of the event with this sequence."""
        body = _PLACE.pack(self._stream, sequence, told) + self._tail
        sealer = self._base.copy()
        sealer.update(body)
        return urlsafe_b64encode(body + sealer.digest()).rstrip(b"=").decode("ascii")


def place_of(event_id: str, digest: str) -> Place | None:
    """The place that an event id names; None unless it was made for this session, by a key that is still known."""
    if len(event_id) > MAX_EVENT_ID or not event_id.isascii():
        return None
    try:
        sealed = urlsafe_b64decode(event_id + "=" * (-len(event_id) % 4))
    except ValueError:
        return None
    body, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    secrets = (str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS))
    if len(body) < _PLACE.size or seal not in [_sealed(secret, digest, body) for secret in secrets]:
        return None
    # One text for one id: the decoder passes over characters outside its alphabet.
    if urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii") != event_id:
        return None
    stream, sequence, told = _PLACE.unpack_from(body)
    tail = body[_PLACE.size :]
    return Place(stream, sequence, told, tuple(json.loads(tail)) if tail else ())


def _sealed(secret: str, digest: str, body: bytes) -> bytes:
    sealer = _sealer(secret, digest).copy()
    sealer.update(body)
    return sealer.digest()


def _sealer(secret: str, digest: str) -> blake2b:
    sealer = blake2b(key=_key(secret), digest_size=_SEAL_BYTES)
    sealer.update(digest.encode())
    return sealer


@lru_cache(maxsize=8)
def _key(secret: str) -> bytes:
    return salted_hmac("mcp_django.sse", "event id", secret=secret, algorithm="sha256").digest()


def event(payload: str, event_id: str | None) -> bytes:
    """The frame of one message. ``payload`` is a JSON text without line breaks."""
    if event_id is None:
        return f"event: message\ndata: {payload}\n\n".encode()
    return f"event: message\nid: {event_id}\ndata: {payload}\n\n".encode()


def priming(event_id: str, retry: int) -> bytes:
    """The event without a message that a connection starts with, and the client's wait before it reconnects, in
    milliseconds (Streamable HTTP 2025-11-25, resumability)."""
    return f"id: {event_id}\nretry: {retry}\ndata: \n\n".encode()


def farewell(retry: int) -> bytes:
    """What a stream says that closes before its end: come back after ``retry`` milliseconds."""
    return f"retry: {retry}\n\n".encode()
