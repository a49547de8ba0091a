"""The stateless era of Streamable HTTP: 2026-07-28.

One POST is one request that says all about itself: no handshake, no session, no row. What comes with it is checked by
the SDK's ladder of rules, and the code of a JSON-RPC error decides the HTTP status.
"""

from __future__ import annotations

import asyncio
import marshal
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp_types import (
    LOG_LEVEL_META_KEY,
    ClientCapabilities,
    ElicitRequest,
    ElicitRequestURLParams,
    Implementation,
    InitializeRequestParams,
    InputRequiredResult,
)
from pydantic import ValidationError

from mcp_django import http, jsonrpc, questions, rounds, threads
from mcp_django.answers import encoded
from mcp_django.auth import Principal, check_scopes
from mcp_django.calls import Call, ResultT
from mcp_django.exceptions import ClientCannot, HandlerError
from mcp_django.http import JSON_HEADERS, RETRY_AFTER_SECONDS, VERSION_HEADER, Request, Response
from mcp_django.kernel import fields_of
from mcp_django.listening import listen
from mcp_django.replies import Reply

if TYPE_CHECKING:
    from mcp_django.context import Context
    from mcp_django.handlers import Handler
    from mcp_django.kernel import Kernel

LISTEN: Final = "subscriptions/listen"
ROUTING_HEADERS: Final = frozenset({VERSION_HEADER, "mcp-method", "mcp-name"})
PARAM_HEADERS: Final = "mcp-param-"
# What the SDK's table leaves open: the request may be sent again, and that is what 503 says.
STATUS: Final[Mapping[int, int]] = {
    **ERROR_CODE_HTTP_STATUS,
    jsonrpc.SERVER_BUSY: 503,
    jsonrpc.CALL_LOST: 503,
    jsonrpc.RATE_LIMITED: 429,
}
# A call that ends sooner need not be cancelled, and most do.
WATCH_AFTER: Final = 0.05
# Larger envelopes than this are made anew for each request, so that what is kept of them stays small.
MAX_KNOWN: Final = 4096
OFF: Final = ("decline", "cancel")


class Envelope:
    """What a request says of its client, in ``_meta`` (2026-07-28, per-request protocol fields)."""

    __slots__ = ("capabilities", "client_info", "client_params", "log_level", "protocol_version")

    initialized: Final = True

    def __init__(self, protocol_version: str, client_info: Any, client_capabilities: Any, log_level: Any) -> None:
        self.protocol_version = protocol_version
        # What is of another shape is refused by the kernel, which knows the method.
        self.client_info: Implementation | None = typed(Implementation, client_info)
        self.capabilities: ClientCapabilities = typed(ClientCapabilities, client_capabilities) or ClientCapabilities()
        self.log_level: str | None = log_level
        self.client_params: InitializeRequestParams | None = None
        """The same as a handshake would say it; None if the client does not give its name."""
        if self.client_info is not None:
            self.client_params = InitializeRequestParams(
                protocol_version=protocol_version, capabilities=self.capabilities, client_info=self.client_info
            )

    @classmethod
    def of(cls, route: InboundModernRoute, meta: Mapping[str, Any]) -> Envelope:
        """The envelope of a request. Clients send the same one with every request, so the last ones are kept, and one
        may serve many requests at once."""
        # Told apart by their bytes: JSON's true equals its 1.
        said = marshal.dumps(
            (route.protocol_version, route.client_info, route.client_capabilities, meta.get(LOG_LEVEL_META_KEY)), 2
        )
        return known(said) if len(said) <= MAX_KNOWN else known.__wrapped__(said)


@lru_cache(maxsize=256)
def known(said: bytes) -> Envelope:
    """The envelope that a client sent as these values, marshalled."""
    return Envelope(*marshal.loads(said))


def typed(model: Any, value: Any) -> Any:
    """A value of the envelope as the SDK's model; None if it is none."""
    try:
        return model.model_validate(value, by_name=False)
    except ValidationError:
        return None


class StatelessCall(Call):
    """A call that belongs to no session: its handler instances are its own, and its questions end its run."""

    __slots__ = ("_handlers", "_round")

    def __init__(
        self,
        server: str,
        envelope: Envelope,
        principal: Principal,
        http: Request,
        request: jsonrpc.Request,
        reply: Reply,
    ) -> None:
        super().__init__(server, envelope, principal, http, request, reply)
        self._handlers: dict[type[Handler], Handler] = {}
        self._round: rounds.Round | None = None

    def handler(self, handler_class: type[Handler]) -> Handler:
        if handler_class not in self._handlers:
            self._handlers[handler_class] = handler_class()
        return self._handlers[handler_class]

    @property
    def can_send_request(self) -> bool:
        return False

    async def conduct(self, context: Context, run: Callable[[], Awaitable[ResultT]]) -> ResultT | InputRequiredResult:
        if self._round is not None:
            # A handler that reads a resource of its server: what that asks is asked with the handler's own questions.
            return await run()
        self._round = current = self._begun_round(context)
        result: Any = None
        try:
            result = await run()
        except UrlElicitationRequiredError as error:
            result = self._urls(error, current.own_responses or {})
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # Whatever became of a handler that has asked: it is run anew with the answers.
            if not current.has_asked:
                raise
        if isinstance(result, InputRequiredResult):
            for request in rounds.requests_on_wire(result.input_requests or {}).values():
                self._check(request["method"], request.get("params", {}))
        return cast("ResultT | InputRequiredResult", current.outcome(result))

    def _begun_round(self, context: Context) -> rounds.Round:
        params = context.request_context.params or {}
        if "requestState" not in params and "inputResponses" not in params:
            return rounds.Round(None, {})
        found = rounds.Round(context.request_state, rounds.wire_of(context.input_responses))
        context._hand_over(found.own_state, rounds.typed(found.own_responses))
        return found

    def _urls(self, error: UrlElicitationRequiredError, answers: Mapping[str, Any]) -> InputRequiredResult:
        """The error that 2025-11-25 has for this, as a result: the client opens the pages and comes again."""
        asked = {f"url-{number}": elicitation for number, elicitation in enumerate(error.elicitations, 1)}
        if any(answers.get(key, {}).get("action") in OFF for key in asked):
            raise HandlerError("The user has not opened the page that this needs.")
        return InputRequiredResult(
            input_requests={
                key: ElicitRequest(params=ElicitRequestURLParams(message=elicitation.message, url=elicitation.url))
                for key, elicitation in asked.items()
            }
        )

    async def _ask(self, method: str, params: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        if self._round is None:
            raise ClientCannot("Nothing can be asked here: only tools, prompts and resources ask.")
        self._check(method, params)
        return self._round.ask(method, params)

    def _check(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "ping":
            raise ClientCannot("A client of this revision cannot be pinged: nothing is sent to it but answers.")
        questions.check(self.peer.capabilities, self.peer.protocol_version, method, params)


async def post(kernel: Kernel, principal: Principal, request: Request, value: Any) -> Response:
    """Answer what a client posts: a request, or a notification, which is accepted and ignored."""
    try:
        message = jsonrpc.message(value)
    except jsonrpc.InvalidMessage as error:
        return refused(jsonrpc.id_of(value), error.code, str(error))
    if type(message) is jsonrpc.Answer:
        text = "Invalid request: this revision has no requests to the client, so there is nothing to answer."
        return refused(message.id, jsonrpc.INVALID_REQUEST, text)
    if type(message) is not jsonrpc.Request:
        unsupported = unsupported_protocol_version_rejection(request.headers.get(VERSION_HEADER, ""))
        return rejected(None, unsupported) if unsupported is not None else Response(202)
    try:
        envelope = Envelope.of(checked(request, value), value["params"]["_meta"])
        await check_scopes(kernel, principal, request, message)
        await check_mirrored(kernel, principal, request, message)
        return await answered(kernel, principal, request, message, envelope)
    except Rejected as error:
        return rejected(message.id, error.rejection)
    except MCPError as error:
        return refused(message.id, error.code, error.message, error.data)
    except ValidationError as error:
        return refused(message.id, jsonrpc.INVALID_PARAMS, f"Invalid params: {fields_of(error)}")


class Rejected(Exception):
    """The SDK's ladder of rules stops a request."""

    def __init__(self, rejection: InboundLadderRejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def checked(request: Request, value: Any) -> InboundModernRoute:
    """What the request's envelope says, once it agrees with the headers (2026-07-28, standard headers).

    Raises:
        Rejected: it does not, or is not whole, or of a version that is not served.
    """
    for name in sorted(request.repeated or ()):
        if name in ROUTING_HEADERS or name.startswith(PARAM_HEADERS):
            raise Rejected(mismatch(f"The header {name} came more than once."))
    route = classify_inbound_request(value, headers=request.headers)
    if isinstance(route, InboundLadderRejection):
        raise Rejected(route)
    return route


async def check_mirrored(kernel: Kernel, principal: Principal, request: Request, message: jsonrpc.Request) -> None:
    """See that the arguments which a tool has mirrored in headers agree with them (SEP-2243).

    Raises:
        Rejected: they do not. Not for tools that the caller does not see: that would give them away.
    """
    if message.method != "tools/call" or not kernel.param_headers:
        return
    params = message.params or {}
    name, arguments = params.get("name"), params.get("arguments") or {}
    schema = kernel.param_headers.get(name) if isinstance(name, str) else None
    if schema is None or not isinstance(arguments, dict):
        return
    if not await threads.start(lambda: kernel.offers_tool(str(name), principal)):
        return
    rejection = validate_mcp_param_headers(schema, arguments, request.headers)
    if rejection is not None:
        raise Rejected(rejection)


async def answered(
    kernel: Kernel, principal: Principal, request: Request, message: jsonrpc.Request, envelope: Envelope
) -> Response:
    """Run the request and answer it, in one piece or as a stream."""
    server = kernel.owner.name
    if message.method == LISTEN and request.streams:

        async def offered(uri: str) -> bool:
            return await kernel.offers_resource(uri, principal)

        return await threads.start(lambda: listen(server, message, offered, kernel.closing()))
    reply = Reply(streams_allowed=request.streams)
    call = reply.call = StatelessCall(server, envelope, principal, request, message, reply)
    call.start(lambda: kernel.respond(call, message.method, message.params))
    await decided(request, reply)
    if reply.streams:
        return http.stream_response(reply)
    error = reply.answer.get("error")
    return Response(STATUS.get(error["code"], 200) if error else 200, encoded(reply.answer), headers_of(error))


async def decided(request: Request, reply: Reply) -> None:
    """Wait until it is known what the answer is; whoever closes the connection meanwhile cancels the request."""
    watching = None
    if request.disconnect is not None:
        loop = asyncio.get_running_loop()
        watching = loop.call_later(WATCH_AFTER, request.disconnect.call, reply.abandoned)
    try:
        await reply.decided
    except asyncio.CancelledError:
        # Django cancels its view when the client has gone.
        reply.abandoned()
        raise
    finally:
        if watching is not None:
            watching.cancel()


def headers_of(error: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The headers of an answer in one piece."""
    if error and STATUS.get(error["code"]) in (429, 503):
        seconds = (error.get("data") or {}).get("retryAfter", RETRY_AFTER_SECONDS)
        return [*JSON_HEADERS, ("Retry-After", str(seconds))]
    return JSON_HEADERS.copy()


def mismatch(text: str) -> InboundLadderRejection:
    """What is said of headers that contradict the body, or each other."""
    return InboundLadderRejection(jsonrpc.HEADER_MISMATCH, text)


def rejected(id: jsonrpc.RequestId | None, rejection: InboundLadderRejection) -> Response:
    """The response to a request that the SDK's ladder stops."""
    return refused(id, rejection.code, rejection.message, rejection.data)


def refused(id: jsonrpc.RequestId | None, code: int, text: str, data: Any = None) -> Response:
    """The response to a request that is not run; it names the request's id if that could be read."""
    return http.json_response(jsonrpc.error(id, code, text, data), STATUS.get(code, 200))
