"""Answers and messages as they are sent: encoded, and with an error in the place of what cannot be."""

from __future__ import annotations

import logging
from typing import Any, Final

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import EventTooLarge

logger = logging.getLogger("mcp_django.calls")

LARGE_EVENT: Final = 1024 * 1024  # the Python 2.x client refuses larger ones


def encoded(answer: dict[str, Any]) -> bytes:
    """A response's JSON; an error in its place if a handler's result is none."""
    try:
        return jsonrpc.encode(answer)
    except (TypeError, ValueError):
        return jsonrpc.encode(not_json(answer))


def payload_of(message: dict[str, Any]) -> str:
    """A message as events have it.

    Raises:
        TypeError, ValueError: it is not JSON.
        EventTooLarge: it is larger than ``MCP_DJANGO_MAX_EVENT_BYTES``.
    """
    payload = jsonrpc.line(message)
    if len(payload) > mcp_settings.MAX_EVENT_BYTES:
        raise EventTooLarge(
            f"The message takes {len(payload)} bytes, {mcp_settings.MAX_EVENT_BYTES} are allowed on a stream "
            "(MCP_DJANGO_MAX_EVENT_BYTES). Return less, in pages or as a resource."
        )
    if len(payload) > LARGE_EVENT:
        logger.warning("an event of %d bytes: some clients refuse events over %d", len(payload), LARGE_EVENT)
    return payload


def payload_of_answer(answer: dict[str, Any]) -> str:
    """An answer as events have it, or an error in its place."""
    try:
        return payload_of(answer)
    except (TypeError, ValueError):
        return payload_of(not_json(answer))
    except EventTooLarge as error:
        return payload_of(jsonrpc.error(answer["id"], jsonrpc.INTERNAL_ERROR, str(error)))


def not_json(answer: dict[str, Any]) -> dict[str, Any]:
    """The error that is sent in place of an answer which JSON cannot say."""
    logger.exception("the result of a handler is not JSON")
    text = "The result holds a value that JSON does not have, such as NaN or Infinity."
    return jsonrpc.error(answer.get("id"), jsonrpc.INTERNAL_ERROR, text)
