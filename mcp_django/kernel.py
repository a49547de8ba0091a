"""The SDK's server under one of ours: every import of the SDK's server side is here and in ``calls``/``context``.

What the SDK does well stays its own: schemas, validation, content conversion, the handshake. What this module adds
is the Django side of a call (context, threads, handler instances), error codes as the 2025 revisions want them,
pagination, ``logging/setLevel``, and capabilities that name only what can be delivered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import MCPServer as SDKServer
from mcp.server.mcpserver.context import Context as SDKContext
from mcp.server.mcpserver.exceptions import (
    ResourceError,
    ResourceNotFoundError,
    ToolError,
    UnexpectedResourceError,
    UnexpectedToolError,
)
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import OnNotify, OnRequest
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    Resource,
    ResourceTemplate,
    SetLevelRequestParams,
    SubscribeRequestParams,
    Tool,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from opentelemetry import trace
from pydantic import AnyUrl, ValidationError

from mcp_django import jsonrpc, threads
from mcp_django.bindings import (
    EXPLAINED,
    Resources,
    Switch,
    check_parameters,
    current_context,
    explained,
    prepared,
    switch,
    with_context,
    without_context,
)
from mcp_django.calls import Call, current_call
from mcp_django.context import Context
from mcp_django.exceptions import HookFailed, SessionNotFound, StoreUnavailable
from mcp_django.handlers import Kind, Registration, RestoreMarker
from mcp_django.pagination import LISTS, page

if TYPE_CHECKING:
    from mcp_django.server import MCPServer

logger = logging.getLogger("mcp_django.calls")

ItemT = TypeVar("ItemT")

MAX_URI = 2000
MAX_COMPLETIONS = 100  # server/utilities/completion, response limits

# Read off the class: the cached properties of an instance hold its own bound methods, a reference cycle per request.
on_request: Callable[[ServerRunner[Any]], OnRequest] = vars(ServerRunner)["on_request"].func
on_notify: Callable[[ServerRunner[Any]], OnNotify] = vars(ServerRunner)["on_notify"].func


class Kernel(SDKServer[Any]):
    """The SDK's server, filled from our server's registrations."""

    def __init__(self, owner: MCPServer, registrations: Sequence[Registration]) -> None:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        super().__init__(**owner.identity, subscriptions=False)
        self._lowlevel_server.middleware[:] = [traced(middleware) for middleware in self._lowlevel_server.middleware]
        # The SDK's constructor configures the root logger, which is Django's to configure.
        root.handlers[:] = handlers
        root.setLevel(level)
        self.owner = owner
        self._switches: dict[Kind, dict[str, Switch]] = {"tool": {}, "resource": {}, "prompt": {}, "completion": {}}
        self._resource_manager: Resources = Resources(self._switches["resource"])
        self._handler_classes = list(dict.fromkeys(r.handler for r in registrations if r.handler is not None))
        self._completions: list[Callable[..., Awaitable[Any]]] = []
        for registration in registrations:
            self._add(registration)
        self._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_level)
        if any(registration.kind == "resource" for registration in registrations):
            self._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
            self._lowlevel_server.add_request_handler(
                "resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe
            )
        if self._completions:
            self._lowlevel_server.add_request_handler("completion/complete", CompleteRequestParams, self._complete)
        kinds = {registration.kind for registration in registrations}
        self._options = {streams: self._initialization(kinds, streams=streams) for streams in (True, False)}
        self.fingerprint = self._fingerprint()

    # Registration

    def _add(self, registration: Registration) -> None:
        add = {
            "tool": self._add_tool,
            "resource": self._add_resource,
            "prompt": self._add_prompt,
            "completion": self._add_completion,
        }[registration.kind]
        try:
            check_parameters(registration)
            options = dict(registration.options)
            if (enabled := options.pop("enabled", None)) is not None:
                self._switches[registration.kind][registration.key] = switch(enabled)
            add(registration, options)
        except Exception as error:
            raise ImproperlyConfigured(
                f"{registration.place} cannot be a {registration.kind} of server {self.owner.name!r}: {error}"
            ) from error

    def _add_tool(self, registration: Registration, options: dict[str, Any]) -> None:
        input_schema = options.pop("input_schema", None)
        fn = prepared(registration)
        self.add_tool(fn, **options)
        if input_schema is not None:
            tool = self._tool_manager.get_tool(options.get("name") or registration.fn.__name__)
            assert tool is not None
            tool.parameters = input_schema

    def _add_resource(self, registration: Registration, options: dict[str, Any]) -> None:
        uri = options.pop("uri")
        fn = prepared(registration)
        if not UriTemplate.parse(uri).variable_names:
            fn = without_context(fn)
        self.resource(uri, **options)(fn)

    def _add_prompt(self, registration: Registration, options: dict[str, Any]) -> None:
        self.prompt(**options)(prepared(registration))

    def _add_completion(self, registration: Registration, options: dict[str, Any]) -> None:
        self._completions.append(with_context(prepared(registration)))

    def _initialization(self, kinds: set[Kind], *, streams: bool) -> InitializationOptions:
        """What the handshake tells: capabilities without what cannot be delivered, and without empty lists.

        Args:
            streams: whether the client can be sent more than answers; under WSGI it cannot.
        """
        changes = NotificationOptions(prompts_changed=streams, resources_changed=streams, tools_changed=streams)
        options = self._lowlevel_server.create_initialization_options(changes)
        capabilities = options.capabilities = options.capabilities.model_copy()
        if not streams:
            capabilities.logging = None
        if capabilities.resources is not None:
            capabilities.resources = capabilities.resources.model_copy(update={"subscribe": streams or None})
        names: dict[Kind, str] = {"tool": "tools", "prompt": "prompts", "resource": "resources"}
        for kind, name in names.items():
            if kind not in kinds:
                setattr(capabilities, name, None)
        return options

    def _fingerprint(self) -> str:
        """Tells whether the tool list is the one that a session's client was shown."""
        tools = {tool.name: tool.parameters for tool in self._tool_manager.list_tools()}
        return hashlib.sha256(jsonrpc.canonical(tools).encode()).hexdigest()

    # One message

    async def respond(self, call: Call, method: str, params: dict[str, Any] | None) -> dict[str, Any]:
        """Handle a request and return its result as it goes on the wire.

        Raises:
            MCPError: the error to answer with.
        """
        try:
            result = await on_request(self._runner(call))(call, method, params)
            return page(result, LISTS[method], params) if method in LISTS else result
        except MCPError:
            raise
        except ValidationError as error:
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Invalid params: {fields_of(error)}") from None
        except EXPLAINED as error:
            raise MCPError(jsonrpc.INTERNAL_ERROR, explained(error)) from None
        except Exception:
            logger.exception("method=%s failed", method)
            raise MCPError(jsonrpc.INTERNAL_ERROR, "Internal server error") from None

    async def initialize(self, call: Call, params: dict[str, Any]) -> dict[str, Any]:
        """Serve the ``initialize`` request, middleware included; handlers hear of it by :meth:`open_handlers`."""
        return await on_request(self._runner(call))(call, "initialize", params)

    async def open_handlers(self, call: Call, marker: RestoreMarker | None) -> None:
        """Make the session's handler instances and tell them of the handshake."""
        current_call.set(call)
        for handler_class in self._handler_classes:
            handler = handler_class()
            handler.session = call.session
            call.session.handlers[handler_class] = handler
            await hook(handler.on_initialize, call.session.client_params, marker)

    async def initialized(self, call: Call, marker: RestoreMarker | None) -> None:
        """``notifications/initialized``: through the SDK's middleware, then to the handlers."""
        current_call.set(call)
        await on_notify(self._runner(call))(call, "notifications/initialized", None)
        for handler in call.session.handlers.values():
            await hook(handler.on_initialized, marker)

    async def replay(self, call: Call, params: dict[str, Any]) -> None:
        """Replay the handshake of a session that is being restored, with its marker.

        The negotiated version stays what the client was told, whatever this version of the code would negotiate.
        """
        marker = call.session.marker
        assert marker is not None
        await self.initialize(call, params)
        await self.open_handlers(call, marker)
        if marker.initialized_at is not None:
            await self.initialized(call, marker)
        for handler in call.session.handlers.values():
            await hook(handler.on_restore, marker)

    def _runner(self, call: Call) -> ServerRunner[Any]:
        session = call.session
        connection = Connection(
            call,
            protocol_version=session.protocol_version,
            session_id=call.session_id,
            client_params=session.client_params,
        )
        if session.initialized:
            connection.initialized.set()
        return ServerRunner(self._lowlevel_server, connection, {}, init_options=self._options[call.http.streams])

    # The SDK's lists, without what is not offered at the moment

    async def list_tools(self) -> list[Tool]:
        return await self._offered("tool", await super().list_tools(), attrgetter("name"))

    async def list_resources(self) -> list[Resource]:
        return await self._offered("resource", await super().list_resources(), attrgetter("uri"))

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        templates = await super().list_resource_templates()
        return await self._offered("resource", templates, attrgetter("uri_template"))

    async def list_prompts(self) -> list[Prompt]:
        return await self._offered("prompt", await super().list_prompts(), attrgetter("name"))

    async def _offered(self, kind: Kind, items: list[ItemT], key: Callable[[ItemT], str]) -> list[ItemT]:
        """The items of a list that are offered at the moment; what decides about several of them is asked once."""
        if not (switches := self._switches[kind]):
            return items
        asked = dict.fromkeys(switches[key(item)] for item in items if key(item) in switches)
        hidden = {offered for offered in asked if not await offered()}
        return [item for item in items if switches.get(key(item)) not in hidden]

    # The SDK's public methods, with our context

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: SDKContext[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        offered = self._switches["tool"].get(name)
        if self._tool_manager.get_tool(name) is None or (offered is not None and not await offered()):
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown tool: {name}. Ask tools/list for the tools there are.")
        try:
            return await super().call_tool(name, arguments, self._own(context))
        except UnexpectedToolError as error:
            # What a resolver asks is asked by the SDK, and what goes wrong then is no crash.
            if isinstance(error.__cause__, EXPLAINED):
                raise ToolError(f"Error executing tool {name}: {explained(error.__cause__)}") from error
            raise

    async def read_resource(
        self, uri: AnyUrl | str, context: SDKContext[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        # A handler that reads a resource of its server gets the SDK's errors, and may do without.
        nested = current_context.get(None) is not None
        own = self._own(context)
        try:
            return await super().read_resource(uri, own)
        except ResourceNotFoundError as error:
            if nested:
                raise
            modern = own.protocol_version in MODERN_PROTOCOL_VERSIONS
            code = jsonrpc.INVALID_PARAMS if modern else jsonrpc.RESOURCE_NOT_FOUND
            raise MCPError(code, str(error), {"uri": str(uri)}) from None
        except UnexpectedResourceError as error:
            if isinstance(error.__cause__, ValidationError):
                text = f"Invalid variables: {fields_of(error.__cause__)}"
                if nested:
                    raise ResourceError(text) from None
                raise MCPError(jsonrpc.INVALID_PARAMS, text, {"uri": str(uri)}) from None
            raise

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: SDKContext[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        prompt, offered = self._prompt_manager.get_prompt(name), self._switches["prompt"].get(name)
        if prompt is None or (offered is not None and not await offered()):
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown prompt: {name}. Ask prompts/list for those there are.")
        required = [argument.name for argument in prompt.arguments or () if argument.required]
        if missing := [argument for argument in required if argument not in (arguments or {})]:
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Prompt {name} lacks arguments: {', '.join(missing)}")
        try:
            return await super().get_prompt(name, arguments, self._own(context))
        except ValueError as error:
            # The SDK wraps what the function raised twice.
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, ValidationError):
                raise MCPError(jsonrpc.INVALID_PARAMS, f"Invalid arguments: {fields_of(cause)}") from None
            if isinstance(cause, ToolError):
                raise MCPError(jsonrpc.INTERNAL_ERROR, str(cause)) from None
            raise

    def _own(self, context: SDKContext[Any, Any] | None) -> Context:
        """Our context in place of the SDK's, and known to handlers that the SDK gives none."""
        assert context is not None
        if not isinstance(context, Context):
            context = Context.adopt(context)
        current_context.set(context)
        return context

    # What the SDK leaves to servers

    async def _set_level(self, ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        session = cast(Call, ctx.request).session
        await session.set_log_level(params.level)
        return EmptyResult()

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        if len(uri) > MAX_URI or await self._resource_manager.find(uri) is None:
            raise MCPError(jsonrpc.RESOURCE_NOT_FOUND, f"Unknown resource: {uri[:200]}", {"uri": uri[:200]})
        await cast(Call, ctx.request).session.change_subscription(uri, subscribed=True)
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        await cast(Call, ctx.request).session.change_subscription(str(params.uri), subscribed=False)
        return EmptyResult()

    async def _complete(self, ctx: ServerRequestContext[Any, Any], params: CompleteRequestParams) -> CompleteResult:
        self._own(SDKContext(request_context=ctx, mcp_server=self))
        for complete in self._completions:
            found = await complete(params.ref, params.argument, params.context)
            if found is not None:
                return CompleteResult(completion=limited(found))
        return CompleteResult(completion=Completion(values=[], total=None, has_more=None))


def traced(middleware: ServerMiddleware[Any]) -> ServerMiddleware[Any]:
    """The SDK's tracing middleware, passed over while the process has no tracer: spans that go nowhere cost a
    tenth of a quick call. Any other middleware as it is."""
    if not isinstance(middleware, OpenTelemetryMiddleware):
        return middleware

    async def trace_if_configured(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return await call_next(ctx)
        return await middleware(ctx, call_next)

    return trace_if_configured


async def hook(method: Callable[..., Any], *args: Any) -> None:
    """Run a hook, sync or async.

    Raises:
        MCPError: the hook raised it, to refuse with a text of its own.
        SessionNotFound, StoreUnavailable: the session ended meanwhile, or its state could not be reached.
        HookFailed: it raised anything else, which is logged.
    """
    try:
        # By way of the function: bound methods are made anew at each access, and wrappers are kept by identity.
        await threads.asynchronous(method.__func__)(method.__self__, *args)  # type: ignore[attr-defined]
    except (MCPError, SessionNotFound, StoreUnavailable):
        raise
    except Exception as error:
        logger.exception("hook=%s failed", method.__qualname__)
        raise HookFailed("A handler of this server failed while the session was being set up. Try again.") from error


def limited(found: Completion | Iterable[str]) -> Completion:
    """At most a hundred values, with what was left out said."""
    completion = found if isinstance(found, Completion) else Completion(values=list(found), total=None, has_more=None)
    count = len(completion.values)
    if count <= MAX_COMPLETIONS:
        return completion
    return Completion(values=completion.values[:MAX_COMPLETIONS], total=completion.total or count, has_more=True)


def fields_of(error: ValidationError) -> str:
    """Which fields were wrong and why, without the values, which are the sender's own data."""
    found = []
    for item in error.errors(include_input=False, include_url=False, include_context=False)[:5]:
        place = ".".join(str(part) for part in item["loc"]) or "params"
        found.append(f"{place}: {item['msg']}")
    return "; ".join(found)
