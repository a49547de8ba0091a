"""The handshake era of Streamable HTTP: 2025-03-26, 2025-06-18, 2025-11-25, and 2024-11-05 served like the first.

One HTTP request in, one response out. On a valid session every JSON-RPC error is HTTP 200 with the error in its
body: some clients drop the whole connection on any other status, so 4xx is for faults of the transport alone.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from mcp_django import jsonrpc, limits, sse
from mcp_django.auth import Principal, check_scopes
from mcp_django.conf import mcp_settings
from mcp_django.cursors import Cursor, StandaloneCursor
from mcp_django.exceptions import HookFailed, TooManySessions
from mcp_django.exchanges import Exchange
from mcp_django.feeds import Feed
from mcp_django.http import (
    JSON_HEADERS,
    LAST_EVENT_HEADER,
    RETRY_AFTER_SECONDS,
    SESSION_HEADER,
    STREAM_HEADERS,
    Request,
    Response,
    json_response,
    refusal,
    stream_response,
    too_many_streams,
)
from mcp_django.kernel import fields_of
from mcp_django.live import LiveSession
from mcp_django.sessions import Visit, sessions
from mcp_django.sse import Place
from mcp_django.streams import standalone_id

if TYPE_CHECKING:
    from mcp_django.kernel import Kernel

# Later revisions removed batches (2025-06-18, key changes).
BATCHING_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26"})
ACCEPTED: Final = 202


async def initialize(kernel: Kernel, principal: Principal, http: Request, value: Any) -> Response:
    """Open a session. An ``Mcp-Session-Id`` that comes along is ignored: ids are ours to choose.

    Raises:
        StoreUnavailable: no session was made, and no id leaves.
        HTTPRefusal: 400, the message is no request; 429, the caller has opened too many sessions.
    """
    try:
        request = jsonrpc.message(value)
    except jsonrpc.InvalidMessage as error:
        raise refusal(400, error.code, str(error)) from None
    if not isinstance(request, jsonrpc.Request):
        raise refusal(400, jsonrpc.INVALID_REQUEST, "initialize must be a request, with an id.")
    limits.check_initialize(principal, http)
    try:
        session_id, result = await sessions().open(kernel, principal, http, request)
    except TooManySessions:
        raise limits.too_many_sessions() from None
    except MCPError as error:
        return json_response(jsonrpc.error(request.id, error.code, error.message, error.data))
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
        return json_response(jsonrpc.error(jsonrpc.id_of(value), error.code, str(error)))
    if type(message) is jsonrpc.Request:
        try:
            await check_scopes(kernel, principal, http, message)
        except MCPError as error:
            return json_response(jsonrpc.error(message.id, error.code, error.message, error.data))
        return await answered(answering(visit, session, {0: message}), itemgetter(0))
    await taken(visit, session, message)
    return Response(ACCEPTED)


async def get(kernel: Kernel, principal: Principal, http: Request) -> Response:
    """Listen: to the session's standalone stream, or to what came after the event that ``Last-Event-ID`` names.

    Raises:
        HTTPRefusal, SessionNotFound, StoreUnavailable: there is nothing to listen to, or that is not known.
    """
    visit = visit_of(kernel, principal, http)
    event_id = http.single(LAST_EVENT_HEADER)
    try:
        session = await sessions().find(visit)
    except (HookFailed, MCPError) as error:
        raise refusal(
            503,
            jsonrpc.INTERNAL_ERROR,
            f"The session cannot be restored: {error}",
            Retry_After=str(RETRY_AFTER_SECONDS),
        ) from None
    check_caps(session)
    if event_id:
        return await resumed(visit, session, event_id)
    return stream_response(standalone(visit, session, None))


def check_caps(session: LiveSession) -> None:
    """Bound the connections that wait.

    Raises:
        HTTPRefusal: 429 or 503.
    """
    streams = sessions().streams
    if streams.connections_of(session.digest) >= mcp_settings.MAX_SESSION_STREAMS:
        raise too_many_streams("session")
    if streams.closing or len(streams.cursors) >= mcp_settings.MAX_STREAMS:
        raise too_many_streams("process")


async def resumed(visit: Visit, session: LiveSession, event_id: str) -> Response:
    """The stream from an event on (Streamable HTTP, resumability).

    Raises:
        HTTPRefusal: 400, the id is not one of this session's, or all after it was delivered.
    """
    place = sse.place_of(event_id, session.digest)
    if place is None:
        raise refusal(400, jsonrpc.INVALID_REQUEST, "The Last-Event-ID is none of this session.")
    if place.stream == standalone_id(session.digest):
        return stream_response(standalone(visit, session, place))
    streams = sessions().streams
    found = await streams.follow(place.stream, session.digest)
    if found is None and not place.request_ids:
        raise refusal(400, jsonrpc.INVALID_REQUEST, "The stream of this Last-Event-ID is no longer kept.")
    if found is None:
        return Response(200, headers=STREAM_HEADERS.copy(), frames=no_longer_kept(session, place))
    feed, head = found
    if place.sequence > head.last or (head.finished and place.sequence == head.last):
        raise refusal(400, jsonrpc.INVALID_REQUEST, "All that came after this Last-Event-ID was delivered.")
    cursor = Cursor(streams, session, feed, place, uuid.uuid4())
    await streams.take_over(cursor)
    return stream_response(cursor)


def standalone(visit: Visit, session: LiveSession, place: Place | None) -> StandaloneCursor:
    """A connection on the session's standalone stream.

    An owner's newest connection is the one that reads. Whoever comes anonymously may be anybody who got hold of the
    session id, and neither hears nor silences the one who is there, but for showing an event id of the stream.
    """
    streams = sessions().streams
    stream = standalone_id(session.digest)
    return StandaloneCursor(
        streams,
        session,
        streams.feeds.get(stream) or Feed(stream, session.digest, standalone=True),
        place or Place(stream, 0),
        server=visit.server,
        takes_over=place is not None or bool(session.principal),
        resumes=place is not None,
    )


async def no_longer_kept(session: LiveSession, place: Place) -> AsyncGenerator[bytes, None]:
    """The end of a stream whose rows were pruned: an error for each of its requests.

    With an id by which nothing can be resumed, as it names no requests: some clients take an error for a break, and
    who comes back without any id is a new listener.
    """
    text = "The answer to this request is no longer kept (MCP_DJANGO_STREAM_RETENTION). Send the request again."
    event_id = sse.EventIds(session.digest, place.stream).at(place.sequence)
    for request_id in place.request_ids:
        yield sse.event(jsonrpc.line(jsonrpc.error(request_id, jsonrpc.CALL_LOST, text)), event_id)


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
    requests: dict[int, jsonrpc.Request] = {}
    broken: dict[int, dict[str, Any]] = {}
    for place, value in enumerate(values):
        # A broken one fails alone (JSON-RPC 2.0, section 6).
        try:
            message = jsonrpc.message(value)
        except jsonrpc.InvalidMessage as error:
            broken[place] = jsonrpc.error(jsonrpc.id_of(value), error.code, str(error))
        else:
            if isinstance(message, jsonrpc.Request):
                requests[place] = message
            else:
                await taken(visit, session, message)
    if not (requests or broken):
        return Response(ACCEPTED)
    exchange = answering(visit, session, requests, broken)
    return await answered(exchange, lambda answers: b"[" + b",".join(answers) + b"]")


def answering(
    visit: Visit,
    session: LiveSession,
    requests: Mapping[int, jsonrpc.Request],
    broken: Mapping[int, dict[str, Any]] = MappingProxyType({}),
) -> Exchange:
    """Start the calls of one POST's requests, side by side.

    Args:
        requests: by their places in the batch. broken: answers to what was no message, likewise.
    """
    exchange = Exchange(
        sessions().streams,
        session,
        requests,
        answers=broken,
        secret=visit.session_id,
        streams_allowed=visit.http.streams,
    )
    for place, request in requests.items():
        visit.start(session, request, exchange, place)
    return exchange


async def answered(exchange: Exchange, join: Callable[[list[bytes]], bytes]) -> Response:
    """The response to a POST: in one piece, made by ``join``, if all was quick and quiet; else an event stream."""
    await exchange.decided
    if exchange.feed is None:
        return Response(200, join(exchange.answers), JSON_HEADERS.copy())
    cursor = Cursor(exchange.streams, exchange.session, exchange.feed, Place(exchange.feed.id, 0))
    return stream_response(cursor)


async def taken(visit: Visit, session: LiveSession, message: jsonrpc.Notification | jsonrpc.Answer | Any) -> None:
    """Take a notification or an answer. Whatever is in it, the sender hears 202 (wire rule 3)."""
    if isinstance(message, jsonrpc.Answer):
        await take_answer(session, message)
    elif not isinstance(message, jsonrpc.Notification):
        return
    elif message.method == "notifications/initialized":
        try:
            await sessions().initialized(visit, session)
        except (HookFailed, MCPError):
            # Logged where it was raised; the session is usable, and a notification is not answered.
            return
    elif message.method == "notifications/cancelled":
        request_id = (message.params or {}).get("requestId")
        if request_id is not None and jsonrpc.is_request_id(request_id) and not session.cancel(request_id):
            await sessions().streams.cancel(session.digest, request_id)


async def take_answer(session: LiveSession, answer: jsonrpc.Answer) -> None:
    """Hand an answer to the call that asked, in whichever process; a late, second or forged one changes nothing."""
    try:
        question = uuid.UUID(str(answer.id))
    except ValueError:
        return
    value = {"error": answer.error} if answer.error is not None else {"result": answer.result}
    await sessions().streams.answer(session.digest, question, value)


def not_restored(value: Any, error: Exception) -> Response:
    """The answer to messages whose session could not be restored because a hook failed: an error for each request."""
    code = error.code if isinstance(error, MCPError) else jsonrpc.INTERNAL_ERROR
    values = value if type(value) is list else [value]
    ids = [jsonrpc.id_of(item) for item in values if type(item) is dict and "method" in item and "id" in item]
    errors = [jsonrpc.error(id, code, str(error)) for id in ids]
    if not errors:
        return Response(ACCEPTED)
    return json_response(errors if type(value) is list else errors[0])
