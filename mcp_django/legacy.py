"""The handshake era of Streamable HTTP: 2025-03-26, 2025-06-18, 2025-11-25, and 2024-11-05 served like the first.

One HTTP request in, one response out. On a valid session every JSON-RPC error is HTTP 200 with the error in its
body: some clients drop the whole connection on any other status, so 4xx is for faults of the transport alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from mcp_django import jsonrpc
from mcp_django.auth import Principal
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import HookFailed
from mcp_django.http import JSON_HEADERS, SESSION_HEADER, Request, Response, json_response, refusal
from mcp_django.kernel import fields_of
from mcp_django.live import LiveSession
from mcp_django.sessions import Visit, sessions

if TYPE_CHECKING:
    from mcp_django.kernel import Kernel

logger = logging.getLogger("mcp_django.calls")

# Later revisions removed batches (2025-06-18, key changes).
BATCHING_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26"})
ACCEPTED: Final = 202


async def initialize(kernel: Kernel, principal: Principal, http: Request, value: Any) -> Response:
    """Open a session. An ``Mcp-Session-Id`` that comes along is ignored: ids are ours to choose.

    Raises:
        StoreUnavailable: no session was made, and no id leaves.
        HTTPRefusal: 400, the message is no request.
    """
    try:
        request = jsonrpc.message(value)
    except jsonrpc.InvalidMessage as error:
        raise refusal(400, error.code, str(error)) from None
    if not isinstance(request, jsonrpc.Request):
        raise refusal(400, jsonrpc.INVALID_REQUEST, "initialize must be a request, with an id.")
    try:
        session_id, result = await sessions().open(kernel, principal, http, request)
    except MCPError as error:
        return json_response(failed(request.id, error))
    except HookFailed as error:
        return json_response(jsonrpc.error(request.id, jsonrpc.INTERNAL_ERROR, str(error)))
    except ValidationError as error:
        text = f"Invalid initialize params: {fields_of(error)}"
        return json_response(jsonrpc.error(request.id, jsonrpc.INVALID_PARAMS, text))
    response = json_response(jsonrpc.result(request.id, result))
    response.headers.append(("Mcp-Session-Id", session_id))
    return response


async def post(kernel: Kernel, principal: Principal, http: Request, value: Any) -> Response:
    """Serve what a client posts to a session: a request, a notification, an answer, or a batch of them.

    Raises:
        HTTPRefusal, SessionNotFound, StoreUnavailable: the session cannot be used.
    """
    visit = visit_of(kernel, principal, http)
    try:
        session = await sessions().find(visit)
    except (HookFailed, MCPError) as error:
        return not_restored(value, error)
    try:
        if type(value) is list:
            return await batch(visit, session, value)
        message = jsonrpc.message(value)
    except jsonrpc.InvalidMessage as error:
        return json_response(jsonrpc.error(id_of(value), error.code, str(error)))
    if type(message) is jsonrpc.Request:
        return Response(200, encoded(await answered(visit, session, message)), JSON_HEADERS.copy())
    await taken(visit, session, message)
    return Response(ACCEPTED)


async def delete(kernel: Kernel, principal: Principal, http: Request) -> Response:
    """End the session (Streamable HTTP, session management).

    Raises:
        HTTPRefusal, SessionNotFound, StoreUnavailable: there is none to end, or that is not known.
    """
    await sessions().end(visit_of(kernel, principal, http), "ended by the client")
    return Response(204)


def visit_of(kernel: Kernel, principal: Principal, http: Request) -> Visit:
    """The visit that a request's session header makes.

    Raises:
        HTTPRefusal: 400, the header is missing or came twice.
    """
    session_id = http.single(SESSION_HEADER)
    if not session_id:
        raise refusal(
            400,
            jsonrpc.INVALID_REQUEST,
            "The header Mcp-Session-Id is missing. Send initialize first, then its id with every request.",
        )
    return Visit(kernel, session_id, principal, http)


async def batch(visit: Visit, session: LiveSession, values: list[Any]) -> Response:
    """A JSON-RPC array: its requests run side by side, their answers leave as one array.

    Raises:
        InvalidMessage: this session's revision has no batches, or this is none.
    """
    if session.protocol_version not in BATCHING_VERSIONS:
        raise jsonrpc.InvalidMessage(
            jsonrpc.INVALID_REQUEST,
            f"Invalid request: protocol version {session.protocol_version} has no batches; post one message each.",
        )
    if not 1 <= len(values) <= mcp_settings.MAX_BATCH:
        raise jsonrpc.InvalidMessage(
            jsonrpc.INVALID_REQUEST,
            f"Invalid request: a batch holds 1 to {mcp_settings.MAX_BATCH} messages (MCP_DJANGO_MAX_BATCH).",
        )
    if any(type(value) is dict and value.get("method") == "initialize" for value in values):
        raise jsonrpc.InvalidMessage(
            jsonrpc.INVALID_REQUEST, "Invalid request: initialize must not be part of a batch."
        )
    answers = await asyncio.gather(*(member(visit, session, value) for value in values))
    wanted = [encoded(answer) for answer in answers if answer is not None]
    if not wanted:
        return Response(ACCEPTED)
    return Response(200, b"[" + b",".join(wanted) + b"]", JSON_HEADERS.copy())


async def member(visit: Visit, session: LiveSession, value: Any) -> dict[str, Any] | None:
    """Serve one member of a batch: its answer, or None for what gets none. A broken one fails alone (JSON-RPC 2.0,
    section 6)."""
    try:
        message = jsonrpc.message(value)
    except jsonrpc.InvalidMessage as error:
        return jsonrpc.error(id_of(value), error.code, str(error))
    if isinstance(message, jsonrpc.Request):
        return await answered(visit, session, message)
    await taken(visit, session, message)
    return None


async def answered(visit: Visit, session: LiveSession, request: jsonrpc.Request) -> dict[str, Any]:
    """Run a request and return its response, a result or an error."""
    call = visit.call(session, request.id)
    try:
        result = await call.run(lambda: visit.kernel.respond(call, request.method, request.params))
        return jsonrpc.result(request.id, result)
    except MCPError as error:
        return failed(request.id, error)


async def taken(visit: Visit, session: LiveSession, message: jsonrpc.Notification | jsonrpc.Answer | Any) -> None:
    """Take a notification or an answer. Whatever is in it, the sender hears 202 (wire rule 3)."""
    if not isinstance(message, jsonrpc.Notification):
        return
    if message.method == "notifications/initialized":
        try:
            await sessions().initialized(visit, session)
        except (HookFailed, MCPError):
            # Logged where it was raised; the session is usable, and a notification is not answered.
            return
    elif message.method == "notifications/cancelled":
        request_id = (message.params or {}).get("requestId")
        if jsonrpc.is_request_id(request_id):
            session.cancel(request_id)


def not_restored(value: Any, error: Exception) -> Response:
    """The answer to messages whose session could not be restored because a hook failed: an error for each request."""
    code = error.code if isinstance(error, MCPError) else jsonrpc.INTERNAL_ERROR
    values = value if type(value) is list else [value]
    ids = [id_of(item) for item in values if type(item) is dict and "method" in item and "id" in item]
    errors = [jsonrpc.error(id, code, str(error)) for id in ids]
    if not errors:
        return Response(ACCEPTED)
    return json_response(errors if type(value) is list else errors[0])


def encoded(answer: dict[str, Any]) -> bytes:
    """A response's JSON; an error in its place if a handler's result is none."""
    try:
        return jsonrpc.encode(answer)
    except (TypeError, ValueError):
        logger.exception("the result of a handler is not JSON")
        text = "The result holds a value that JSON does not have, such as NaN or Infinity."
        return jsonrpc.encode(jsonrpc.error(answer.get("id"), jsonrpc.INTERNAL_ERROR, text))


def failed(id: jsonrpc.RequestId, error: MCPError) -> dict[str, Any]:
    """The error response for an exception of the SDK."""
    return jsonrpc.error(id, error.code, error.message, error.data)


def id_of(value: Any) -> jsonrpc.RequestId | None:
    """The id to answer a broken message with, if it has a usable one."""
    found = value.get("id") if type(value) is dict else None
    return found if jsonrpc.is_request_id(found) else None
