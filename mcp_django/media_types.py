"""What a client sends and what it takes: ``Content-Type`` and ``Accept``. Pure; no Django."""

from __future__ import annotations

from functools import lru_cache

from mcp_django import jsonrpc
from mcp_django.http import METHODS, Request, refusal


def check_takes_stream(request: Request) -> None:
    """A GET must be able to take an event stream (Streamable HTTP, listening for messages).

    Raises:
        HTTPRefusal: 405 where none can be carried, 406 for an Accept that leaves it out.
    """
    if not request.streams:
        raise refusal(
            405,
            jsonrpc.INVALID_REQUEST,
            "Event streams need ASGI, this server runs under WSGI. Use POST for messages and DELETE to end the "
            "session.",
            Allow=", ".join(method for method in METHODS if method != "GET"),
        )
    if not takes_stream(request.headers.get("accept", "*/*")):
        raise refusal(406, jsonrpc.INVALID_REQUEST, "Accept must list text/event-stream.")


def check_media_types(request: Request) -> None:
    """A POST must be JSON and its sender able to take JSON and an event stream (Streamable HTTP, sending messages).

    Raises:
        HTTPRefusal: 415 for another Content-Type, 406 for an Accept that leaves either out.
    """
    content_type = request.headers.get("content-type", "")
    if not is_json(content_type):
        raise refusal(415, jsonrpc.INVALID_REQUEST, "Content-Type must be application/json, in UTF-8.")
    if not accepts_both(request.headers.get("accept", "*/*")):
        raise refusal(406, jsonrpc.INVALID_REQUEST, "Accept must list application/json and text/event-stream.")


@lru_cache(maxsize=256)
def is_json(content_type: str) -> bool:
    """Whether a Content-Type is ``application/json`` without a charset other than UTF-8."""
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() != "application/json":
        return False
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in ("utf-8", "utf8"):
            return False
    return True


@lru_cache(maxsize=256)
def accepts_both(accept: str) -> bool:
    """Whether an Accept header takes JSON and event streams, ranges and ``q=0`` understood (RFC 9110, 12.5.1)."""
    weights = weights_of(accept)
    return accepts(weights, "application/json") and accepts(weights, "text/event-stream")


@lru_cache(maxsize=256)
def takes_stream(accept: str) -> bool:
    """Whether an Accept header takes event streams."""
    return accepts(weights_of(accept), "text/event-stream")


def weights_of(accept: str) -> dict[str, bool]:
    """The media ranges of an Accept header, and whether each is wanted."""
    weights = {}
    for part in accept.split(","):
        media_range, *parameters = part.split(";")
        weights[media_range.strip().lower()] = not any(is_zero_weight(parameter) for parameter in parameters)
    return weights


def accepts(weights: dict[str, bool], media_type: str) -> bool:
    """Whether the most specific range that covers a media type takes it."""
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if media_range in weights:
            return weights[media_range]
    return False


def is_zero_weight(parameter: str) -> bool:
    """Whether a parameter of a media range is a weight of zero."""
    name, _, value = parameter.strip().partition("=")
    return name.strip().lower() == "q" and value.strip().rstrip("0") in ("", ".", "0.")
