"""The endpoint: one HTTP request to one response, whichever entry it came through."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.core.signals import got_request_exception
from mcp_types import PROTOCOL_VERSION_META_KEY
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from mcp_django import http, jsonrpc, legacy, media_types, modern, origins, patrol, shutdown, threads
from mcp_django.auth import Principal, identify
from mcp_django.exceptions import SessionNotFound, StoreUnavailable
from mcp_django.http import VERSION_HEADER, HTTPRefusal, Request, Response, refusal

if TYPE_CHECKING:
    from mcp_django.server import MCPServer

logger = logging.getLogger("django.request")


async def respond(server: MCPServer, request: Request) -> Response:
    """Answer one request to ``server``. Every fault has its response; only a test that cannot work raises."""
    shutdown.install()
    await threads.refuse_test_transaction()
    origin: str | None = None
    try:
        http.check_header_size(request)
        origin = origins.check_host_and_origin(request)
        if request.fault is not None:
            raise request.fault
        response = await _respond(server, request)
    except HTTPRefusal as error:
        response = error.response
    except SessionNotFound:
        response = http.session_not_found().response
    except StoreUnavailable as error:
        logger.warning("server=%s the session store is not available: %s", server.name, error)
        response = http.unavailable().response
    except Exception:
        logger.exception("Internal Server Error: MCP server %s", server.name)
        await got_request_exception.asend_robust(sender=type(server), request=request.django)
        response = refusal(500, jsonrpc.INTERNAL_ERROR, "Internal server error").response
    if origin is not None:
        origins.add_cors(response, origin)
    return response


async def _respond(server: MCPServer, request: Request) -> Response:
    if request.method == "OPTIONS":
        return origins.options_response(request)
    if request.method == "POST":
        media_types.check_media_types(request)
    elif request.method == "GET":
        media_types.check_takes_stream(request)
    credentials = await identify(server, request)
    response = await _answer(server, credentials.principal, request)
    if response.connection is not None and credentials.authenticator is not None:
        patrol.hold(response.connection, credentials)
    return response


async def _answer(server: MCPServer, principal: Principal, request: Request) -> Response:
    if request.method == "POST":
        return await _post(server, principal, request)
    if request.method in ("GET", "DELETE"):
        _check_handshake_era(server, request)
        if request.method == "GET":
            return await legacy.get(server.kernel, principal, request)
        return await legacy.delete(server.kernel, principal, request)
    raise refusal(
        405,
        jsonrpc.INVALID_REQUEST,
        "Use POST for messages, GET to listen and DELETE to end the session.",
        Allow=", ".join(http.METHODS),
    )


async def _post(server: MCPServer, principal: Principal, request: Request) -> Response:
    try:
        value = jsonrpc.decode(request.body)
    except jsonrpc.InvalidMessage as error:
        raise refusal(400, error.code, str(error)) from None
    if type(value) is dict and value.get("method") == "initialize" and not has_envelope(value):
        # A client that offers a version by header before any was agreed on is still to be told ours.
        return await legacy.initialize(server.kernel, principal, request, value)
    if has_envelope(value):
        if server.stateless:
            return await modern.post(server.kernel, principal, request, value)
        raise unsupported(server, value["params"]["_meta"][PROTOCOL_VERSION_META_KEY])
    version = request.single(VERSION_HEADER)
    if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
        return await legacy.post(server.kernel, principal, request, value)
    if server.stateless and version in MODERN_PROTOCOL_VERSIONS:
        # It lacks the envelope, and is to be told so.
        return await modern.post(server.kernel, principal, request, value)
    raise unsupported(server, version)


def _check_handshake_era(server: MCPServer, request: Request) -> None:
    """GET and DELETE belong to sessions, which only the handshake era has.

    Raises:
        HTTPRefusal: 405 for a later version, 400 for one that is not served.
    """
    version = request.single(VERSION_HEADER)
    if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
        return
    if version in MODERN_PROTOCOL_VERSIONS and server.stateless:
        raise refusal(
            405,
            jsonrpc.INVALID_REQUEST,
            f"Protocol version {version} has no sessions: POST requests, subscriptions/listen to listen.",
            Allow="POST, OPTIONS",
        )
    raise unsupported(server, version)


def has_envelope(value: Any) -> bool:
    """Whether a message carries the per-request envelope of 2026-07-28 in ``params._meta``."""
    params = value.get("params") if type(value) is dict else None
    meta = params.get("_meta") if type(params) is dict else None
    return type(meta) is dict and PROTOCOL_VERSION_META_KEY in meta


def unsupported(server: MCPServer, version: Any) -> HTTPRefusal:
    """400 for a protocol version that this server does not serve; names those that it does."""
    supported = [*(MODERN_PROTOCOL_VERSIONS if server.stateless else ()), *HANDSHAKE_PROTOCOL_VERSIONS]
    return refusal(
        400,
        jsonrpc.UNSUPPORTED_PROTOCOL_VERSION,
        f"Unsupported protocol version; this server speaks {', '.join(supported)}.",
        data={"supported": supported, "requested": version[:100] if isinstance(version, str) else ""},
    )
