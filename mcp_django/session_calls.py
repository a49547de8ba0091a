"""Calls of the handshake era: each belongs to a session, and may be followed and answered through any process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import InputRequests, InputRequiredResult

from mcp_django import jsonrpc, questions, rounds
from mcp_django.auth import Principal
from mcp_django.calls import Call, ResultT
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import HandlerError
from mcp_django.exchanges import Exchange
from mcp_django.http import Request

if TYPE_CHECKING:
    from mcp_django.context import Context
    from mcp_django.handlers import Handler
    from mcp_django.live import LiveSession

MAX_ROUNDS: Final = 20


class SessionCall(Call):
    """A call of the handshake era. It belongs to a session, and its exchange may become a durable stream."""

    __slots__ = ("_session", "_session_id", "exchange")

    def __init__(
        self,
        server: str,
        session: LiveSession,
        session_id: str,
        principal: Principal,
        http: Request,
        request: jsonrpc.Request | None = None,
        exchange: Exchange | None = None,
        place: int = 0,
    ) -> None:
        super().__init__(server, session, principal, http, request, exchange, place)
        self.exchange = exchange
        self._session = session
        self._session_id = session_id

    @property
    def session(self) -> LiveSession:
        return self._session

    @property
    def session_id(self) -> str:
        return self._session_id

    def handler(self, handler_class: type[Handler]) -> Handler:
        return self._session.handlers[handler_class]

    async def conduct(self, context: Context, run: Callable[[], Awaitable[ResultT]]) -> ResultT | InputRequiredResult:
        for _round in range(MAX_ROUNDS):
            try:
                result = await run()
            except UrlElicitationRequiredError as error:
                # A code that only 2025-11-25 has, and only clients that open URLs know.
                for elicitation in error.elicitations:
                    self._check("elicitation/create", {"mode": elicitation.mode})
                raise
            if not isinstance(result, InputRequiredResult):
                return result
            # A handler made for clients that are sent questions as results: this one is sent them as requests.
            responses = await self._responses(result.input_requests or {})
            context._hand_over(result.request_state, rounds.typed(responses))
        raise HandlerError(f"The request was not answered after {MAX_ROUNDS} rounds of questions to the client.")

    async def _responses(self, requests: InputRequests) -> dict[str, Any]:
        wire = rounds.requests_on_wire(requests)
        for request in wire.values():
            self._check(request["method"], request.get("params", {}))
        answers = await asyncio.gather(*(self.send_raw_request(r["method"], r.get("params")) for r in wire.values()))
        return dict(zip(wire, answers, strict=True))

    def _check(self, method: str, params: Mapping[str, Any]) -> None:
        questions.check(self._session.capabilities, self._session.protocol_version, method, params)

    def _check_limits(self) -> None:
        super()._check_limits()
        # This one is among them.
        if len(self._session.calls) > mcp_settings.MAX_SESSION_CALLS:
            raise MCPError(
                jsonrpc.SERVER_BUSY,
                f"The session has {mcp_settings.MAX_SESSION_CALLS} calls running, which is as many as it may "
                "(MCP_DJANGO_MAX_SESSION_CALLS). Wait for one to end.",
            )

    def _began(self) -> None:
        super()._began()
        assert self.exchange is not None
        self._session.calls.add(self)
        # A cancel, or the session's end, may come through another process.
        self.exchange.streams.watcher.start()

    def _ended(self) -> None:
        super()._ended()
        self._session.calls.discard(self)

    async def _ask(self, method: str, params: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        assert self.exchange is not None
        return await questions.ask(self.exchange, method, params, seconds)

    async def _tell_of_change(self, message: dict[str, Any]) -> None:
        assert self.exchange is not None
        await self.exchange.streams.post(self._session.digest, message)
