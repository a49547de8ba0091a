"""Questions to the client: elicitation, sampling, roots, ping.

A question is a row before it is on the wire, has a uuid that no other process uses, rides the stream of the call that
asks, and may be answered through any process.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mcp.shared.exceptions import MCPError
from mcp_types import ClientCapabilities

from mcp_django import jsonrpc, threads
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import ClientCannot, StoreUnavailable, StreamLost
from mcp_django.stream_batches import Question

if TYPE_CHECKING:
    from mcp_django.exchanges import Exchange

ELICITATION_VERSION = "2025-06-18"
URL_MODE_VERSION = "2025-11-25"


async def ask(
    exchange: Exchange, method: str, params: Mapping[str, Any] | None, seconds: float | None
) -> dict[str, Any]:
    """Ask the client on the stream of ``exchange`` and wait for the answer.

    Args:
        seconds: how long to wait; ``MCP_DJANGO_QUESTION_TIMEOUT`` if None.

    Raises:
        ClientCannot: the client cannot be asked this; nothing was sent.
        MCPError: it answered with an error, or not in time.
    """
    session, streams = exchange.session, exchange.streams
    check(session.capabilities, session.protocol_version, method, params or {})
    question = Question(uuid.uuid4(), session.digest, method)
    waiting: Future[str] = Future()
    streams.questions[question.id] = waiting
    streams.watcher.start()
    try:
        await exchange.send(jsonrpc.request(str(question.id), method, params), asks=question)
        await threads.release_scope()
        patience = seconds if seconds is not None else mcp_settings.QUESTION_TIMEOUT.total_seconds()
        async with asyncio.timeout(patience):
            return result_of(await asyncio.wrap_future(waiting))
    except TimeoutError:
        if late := await abandoned(exchange, question, "timed out"):
            return result_of(late)
        raise MCPError(jsonrpc.REQUEST_TIMEOUT, f"The client did not answer {method} in time.") from None
    except asyncio.CancelledError:
        await asyncio.shield(threads.start(lambda: abandoned(exchange, question, "the call was cancelled")))
        raise
    finally:
        streams.questions.pop(question.id, None)


async def abandoned(exchange: Exchange, question: Question, reason: str) -> str | None:
    """Wait for the answer no longer and tell the client so; returns the answer if it has just come."""
    store = exchange.streams.store
    try:
        if not await store.abandon(question.digest, question.id):
            return (await store.answers([question.id])).get(question.id)
        params = {"requestId": str(question.id), "reason": reason}
        await exchange.send(jsonrpc.notification("notifications/cancelled", params))
    except (StoreUnavailable, StreamLost):
        # Then the client's answer, should it come, changes nothing.
        pass
    return None


def result_of(text: str) -> dict[str, Any]:
    """The result in a client's answer.

    Raises:
        MCPError: it is an error, or no result at all.
    """
    answer = json.loads(text)
    error, result = answer.get("error"), answer.get("result")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        raise MCPError(
            code if isinstance(code, int) else jsonrpc.INTERNAL_ERROR,
            message if isinstance(message, str) else "The client answered with an error.",
            error.get("data"),
        )
    if not isinstance(result, dict):
        raise MCPError(jsonrpc.INVALID_REQUEST, "The client's answer has no result object.")
    return result


def check(capabilities: ClientCapabilities, version: str, method: str, params: Mapping[str, Any]) -> None:
    """Refuse a question that the client did not declare that it takes, by kind and mode (lifecycle, capabilities).

    Raises:
        ClientCannot: that is so.
    """
    if method == "elicitation/create":
        check_elicitation(capabilities, version, params.get("mode", "form"))
    elif method == "sampling/createMessage":
        check_sampling(capabilities, params)
    elif method == "roots/list" and capabilities.roots is None:
        raise ClientCannot(
            "This client has no roots: it did not declare the capability `roots`. Go on without them.", {"roots": {}}
        )


def check_elicitation(capabilities: ClientCapabilities, version: str, mode: str) -> None:
    """The same for one mode of elicitation: an empty capability means forms alone (2025-11-25, elicitation)."""
    declared = capabilities.elicitation
    if declared is None or version < ELICITATION_VERSION:
        raise ClientCannot(
            "This client cannot ask its user: it did not declare the capability `elicitation`. Take what is needed as "
            "arguments instead.",
            {"elicitation": {mode: {}}},
        )
    takes_url = declared.url is not None and version >= URL_MODE_VERSION
    if mode == "url" and not takes_url:
        raise ClientCannot(
            "This client cannot open a URL for its user: it did not declare `elicitation.url`.",
            {"elicitation": {"url": {}}},
        )
    if mode == "form" and declared.form is None and takes_url:
        raise ClientCannot(
            "This client shows no forms to its user: it declared `elicitation.url` alone.",
            {"elicitation": {"form": {}}},
        )


def check_sampling(capabilities: ClientCapabilities, params: Mapping[str, Any]) -> None:
    """The same for sampling, and for tools in it."""
    declared = capabilities.sampling
    if declared is None:
        raise ClientCannot(
            "This client lends no model: it did not declare the capability `sampling`.", {"sampling": {}}
        )
    if ("tools" in params or "toolChoice" in params) and declared.tools is None:
        raise ClientCannot(
            "This client's model takes no tools: it did not declare `sampling.tools`.", {"sampling": {"tools": {}}}
        )
