"""The SDK's server under one of ours: every import of the SDK's server side is here and in ``calls``/``context``.

What the SDK does well stays its own: schemas, validation, content conversion, the handshake. What this module adds
is the Django side of a call (context, threads, handler instances), error codes as the 2025 revisions want them,
pagination, ``logging/setLevel``, and capabilities that name only what can be delivered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.extension import Extension
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
from mcp.server.mcpserver.resources import ResourceTemplate as SDKTemplate
from mcp.server.mcpserver.tools import Tool as SDKTool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import OnRequest
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    DiscoverResult,
    EmptyResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    RequestParams,
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

from mcp_django import jsonrpc, rounds
from mcp_django.adoption import QuickPrivates, adopted
from mcp_django.auth import Principal, lacking
from mcp_django.bindings import (
    EXPLAINED,
    Resources,
    check_kinds,
    check_parameters,
    current_context,
    failure,
    prepared,
    protocol_error,
    with_context,
    without_context,
)
from mcp_django.calls import Call
from mcp_django.context import Context
from mcp_django.handlers import Kind, Registration
from mcp_django.handles import Handle
from mcp_django.offers import Offers
from mcp_django.pagination import LISTS, page
from mcp_django.running import current_call

if TYPE_CHECKING:
    from mcp_django.server import MCPServer

logger = logging.getLogger("mcp_django.calls")

ItemT = TypeVar("ItemT")

MAX_URI = 2000
MILLISECOND = timedelta(milliseconds=1)
LIST_METHODS: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)
OURS = frozenset({"enabled", "permission", "scopes", "atomic"})
"""Arguments of decorators that are not the SDK's."""
NAMED: dict[str, tuple[Kind, str]] = {
    "tools/call": ("tool", "name"),
    "prompts/get": ("prompt", "name"),
    "resources/read": ("resource", "uri"),
    "resources/subscribe": ("resource", "uri"),
}
COMPLETED: tuple[tuple[Kind, str], ...] = (("prompt", "name"), ("resource", "uri"))
MAX_COMPLETIONS = 100  # server/utilities/completion, response limits

# Read off the class: the cached properties of an instance hold its own bound methods, a reference cycle per request.
on_request: Callable[[ServerRunner[Any]], OnRequest] = vars(ServerRunner)["on_request"].func


class Failed:
    """Stands in for a server whose tool has failed."""

    _subscriptions = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def call_tool(self, *args: Any) -> NoReturn:
        try:
            raise self._error
        finally:
            # The error holds on to this frame, and so to this.
            del self._error


class ToolMetadata(QuickPrivates, FuncMetadata):
    """The SDK's, in which what converts a tool's results is private."""


class Kernel(SDKServer[Any]):
    """The SDK's server, filled from our server's registrations."""

    def __init__(self, owner: MCPServer, registrations: Sequence[Registration]) -> None:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        super().__init__(
            **owner.identity,
            subscriptions=False,
            request_state_security=rounds.security(owner.name),
            cache_hints=cache_hints(owner, registrations),
        )
        self._lowlevel_server.middleware[:] = [traced(middleware) for middleware in self._lowlevel_server.middleware]
        # The SDK's constructor configures the root logger, which is Django's to configure.
        root.handlers[:] = handlers
        root.setLevel(level)
        self.owner = owner
        self._context = Context.adopt(SDKContext(mcp_server=self, subscriptions=self._subscriptions))
        self.offers = Offers()
        self._resource_manager: Resources = Resources(self.offers)
        self.handler_classes = list(dict.fromkeys(r.handler for r in registrations if r.handler is not None))
        self._completions: list[Callable[..., Awaitable[Any]]] = []
        self._read_ttls: dict[str, int] = {}
        self._kinds: dict[str, type[Handle]] = {}
        for registration in registrations:
            self._add(registration)
        self._extend(owner.extensions)
        self._add_protocol_handlers({registration.kind for registration in registrations})
        self.param_headers = {tool.name: tool.parameters for tool in self._tool_manager.list_tools() if mirrored(tool)}
        """The input schemas of tools that have arguments mirrored in headers, by the tools' names."""
        self.fingerprint = self._fingerprint()

    # Registration

    def _add_protocol_handlers(self, kinds: set[Kind]) -> None:
        """What the SDK leaves to servers."""
        add = self._lowlevel_server.add_request_handler
        add("logging/setLevel", SetLevelRequestParams, self._set_level)
        if self._resource_manager.list_resources() or self._resource_manager.list_templates():
            kinds = kinds | {"resource"}
            add("resources/subscribe", SubscribeRequestParams, self._subscribe)
            add("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        if self._tool_manager.list_tools():
            kinds = kinds | {"tool"}
        if self._completions:
            add("completion/complete", CompleteRequestParams, self._complete)
        add("server/discover", RequestParams, self._discover)
        self._options = {streams: self._initialization(kinds, streams=streams) for streams in (True, False)}

    def _add(self, registration: Registration) -> None:
        add = {
            "tool": self._add_tool,
            "resource": self._add_resource,
            "prompt": self._add_prompt,
            "completion": self._add_completion,
        }[registration.kind]
        try:
            check_parameters(registration)
            check_kinds(registration, self._kinds)
            self.offers.add(registration)
            add(registration, {name: value for name, value in registration.options.items() if name not in OURS})
        except Exception as error:
            raise ImproperlyConfigured(
                f"{registration.place} cannot be a {registration.kind} of server {self.owner.name!r}: {error}"
            ) from error

    def _add_tool(self, registration: Registration, options: dict[str, Any]) -> None:
        input_schema = options.pop("input_schema", None)
        fn = prepared(registration)
        self.add_tool(fn, **options)
        tool = self._tool_manager.get_tool(options.get("name") or registration.fn.__name__)
        assert tool is not None
        adopted(tool.fn_metadata, ToolMetadata)
        if input_schema is not None:
            if problem := find_invalid_x_mcp_header(input_schema):
                raise ValueError(f"its input_schema is wrong: {problem}")
            tool.parameters = input_schema

    def _add_resource(self, registration: Registration, options: dict[str, Any]) -> None:
        uri = options.pop("uri")
        if (ttl := options.pop("cache_ttl", None)) is not None:
            self._read_ttls[uri] = ttl // MILLISECOND
        fn = prepared(registration)
        if not UriTemplate.parse(uri).variable_names:
            fn = without_context(fn)
        self.resource(uri, **options)(fn)

    def _add_prompt(self, registration: Registration, options: dict[str, Any]) -> None:
        self.prompt(**options)(prepared(registration))

    def _add_completion(self, registration: Registration, options: dict[str, Any]) -> None:
        self._completions.append(with_context(prepared(registration)))

    def _extend(self, extensions: Sequence[Extension]) -> None:
        """Take in what extensions bring: tools, resources, methods, settings, what wraps tool calls (SEP-2133)."""
        for extension in extensions:
            for tool in extension.tools():
                self._add(Registration("tool", tool.fn, {**tool.kwargs, "meta": tool.meta}))
            for resource in extension.resources():
                self.add_resource(resource.resource)
            for method in extension.methods():
                self._lowlevel_server.add_request_handler(method.method, method.params_type, method.handler)
            self._lowlevel_server.extensions[extension.identifier] = extension.settings()
        self._extensions += extensions
        self._install_extension_interceptor()

    def _initialization(self, kinds: set[Kind], *, streams: bool) -> InitializationOptions:
        """What the handshake tells: capabilities without what cannot be delivered, and without empty lists.

        Args:
            streams: whether the client can be sent more than answers; under WSGI it cannot.
        """
        changes = NotificationOptions(prompts_changed=streams, resources_changed=streams, tools_changed=streams)
        options = self._lowlevel_server.create_initialization_options(changes)
        capabilities = options.capabilities = options.capabilities.model_copy()
        capabilities.extensions = capabilities.extensions or None
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
            if missing := await self.missing_scopes(call.principal, method, params):
                # Members of batches; whoever posts one request is told by the HTTP status.
                raise MCPError(jsonrpc.INVALID_REQUEST, lacking(missing))
            result = await on_request(self.runner(call))(call, method, params)
            return page(result, LISTS[method], params) if method in LISTS else result
        except MCPError:
            raise
        except ValidationError as error:
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Invalid params: {fields_of(error)}") from None
        except EXPLAINED as error:
            raise protocol_error(error) from None
        except Exception:
            logger.exception("method=%s failed", method)
            raise MCPError(jsonrpc.INTERNAL_ERROR, "Internal server error") from None

    def runner(self, call: Call) -> ServerRunner[Any]:
        """The SDK's kernel for one call."""
        peer = call.peer
        connection = Connection(
            call, protocol_version=peer.protocol_version, session_id=call.session_id, client_params=peer.client_params
        )
        # A request's own envelope may declare capabilities without naming the client.
        connection.client_capabilities = peer.capabilities
        if peer.initialized:
            connection.initialized.set()
        return ServerRunner(self._lowlevel_server, connection, {}, init_options=self._options[call.http.streams])

    def closing(self) -> dict[str, Any]:
        """The result that ends a stream of notices on purpose (2026-07-28, subscriptions)."""
        stamp = {SERVER_INFO_META_KEY: self._lowlevel_server.server_info_stamp}
        return {"resultType": "complete", "_meta": stamp}

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
        return await self.offers.among(kind, items, key, current_call.get().principal)

    async def offers_tool(self, name: str, principal: Principal) -> bool:
        """Whether there is such a tool for a caller."""
        return self._tool_manager.get_tool(name) is not None and await self._is_offered("tool", name, principal)

    async def offers_prompt(self, name: str, principal: Principal) -> bool:
        """Whether there is such a prompt for a caller."""
        return self._prompt_manager.get_prompt(name) is not None and await self._is_offered("prompt", name, principal)

    async def offers_resource(self, uri: str, principal: Principal) -> bool:
        """Whether there is such a resource for a caller."""
        return len(uri) <= MAX_URI and await self._resource_manager.find(uri, principal) is not None

    async def offers_template(self, uri: str, principal: Principal) -> bool:
        """Whether there is such a template, written like this, for a caller; a resource counts as one."""
        known = any(uri in (key, found.uri_template) for key, found in self._resource_manager._templates.items())
        return (known or uri in self._resource_manager._resources) and await self._is_offered(
            "resource", uri, principal
        )

    async def _is_offered(self, kind: Kind, key: str, principal: Principal) -> bool:
        return await self.offers.offered(kind, key, principal.as_it_is)

    async def missing_scopes(
        self, principal: Principal, method: str, params: Mapping[str, Any] | None
    ) -> frozenset[str]:
        """What a caller who could get more scopes lacks for a request."""
        if not self.offers.have_scopes(principal):
            return frozenset()
        return await self.offers.missing_scopes(principal, self._keys_of(method, params or {}))

    def _keys_of(self, method: str, params: Mapping[str, Any]) -> list[tuple[Kind, str]]:
        """What a request is about; of a resource, all that may serve it, the first one first."""
        if method == "completion/complete":
            ref = params.get("ref")
            params = ref if isinstance(ref, dict) else {}
            # By their own names: what is completed is a template, not what it makes.
            return [(kind, params[key]) for kind, key in COMPLETED if isinstance(params.get(key), str)]
        kind, parameter = NAMED.get(method, (None, ""))
        name = params.get(parameter)
        if kind is None or not isinstance(name, str) or len(name) > MAX_URI:
            return []
        if kind != "resource":
            return [(kind, name)]
        return [(kind, key) for key, _found in self._resource_manager.matching(name)]

    # The SDK's public methods, with our context

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: SDKContext[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        if not await self.offers_tool(name, current_call.get().principal):
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown tool: {name}. Ask tools/list for the tools there are.")
        own, run = self._own(context), super().call_tool
        try:
            return await own.call.conduct(own, lambda: run(name, arguments, own))
        except UnexpectedToolError as error:
            # What a resolver asks is asked by the SDK, and what goes wrong then is no crash.
            if isinstance(error.__cause__, EXPLAINED):
                raise failure(error.__cause__, "tool", f"Error executing tool {name}: ") from error
            raise
        except EXPLAINED as error:
            raise failure(error, "tool", f"Error executing tool {name}: ") from error
        except MCPError as error:
            # The SDK's resolvers say what a client lacks in a code that sessions do not have.
            if error.code == jsonrpc.MISSING_REQUIRED_CLIENT_CAPABILITY and own.has_session:
                raise ToolError(f"Error executing tool {name}: {error.message}") from error
            raise

    async def read_resource(
        self, uri: AnyUrl | str, context: SDKContext[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        # A handler that reads a resource of its server gets the SDK's errors, and may do without.
        nested = current_context.get(None) is not None
        own, run = self._own(context), super().read_resource
        try:
            return await own.call.conduct(own, lambda: run(uri, own))
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
        prompt = self._prompt_manager.get_prompt(name)
        if prompt is None or not await self.offers_prompt(name, current_call.get().principal):
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown prompt: {name}. Ask prompts/list for those there are.")
        required = [argument.name for argument in prompt.arguments or () if argument.required]
        if missing := [argument for argument in required if argument not in (arguments or {})]:
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Prompt {name} lacks arguments: {', '.join(missing)}")
        own, run = self._own(context), super().get_prompt
        try:
            return await own.call.conduct(own, lambda: run(name, arguments, own))
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

    async def _discover(self, ctx: ServerRequestContext[Any, Any], params: RequestParams) -> DiscoverResult:
        options = self._options[cast(Call, ctx.request).http.streams]
        return DiscoverResult(
            supported_versions=list(MODERN_PROTOCOL_VERSIONS),
            capabilities=options.capabilities,
            instructions=options.instructions,
        )

    async def _handle_call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        # The SDK has each context validated, which has no fields: a twentieth of a quick call's time.
        context = self._context._copied_for(ctx, params)
        try:
            return await self.call_tool(params.name, params.arguments or {}, context)
        except MCPError:
            raise
        except Exception as error:
            # What is logged and answered then is the SDK's to say.
            return await SDKServer._handle_call_tool(cast(Any, Failed(error)), ctx, params)

    async def _handle_read_resource(
        self, ctx: ServerRequestContext[Any, Any], params: ReadResourceRequestParams
    ) -> ReadResourceResult | InputRequiredResult:
        result = await super()._handle_read_resource(ctx, params)
        if self._read_ttls and isinstance(result, ReadResourceResult):
            found = await self._resource_manager.find(str(params.uri), current_call.get().principal)
            key = found.uri_template if isinstance(found, SDKTemplate) else str(params.uri)
            # What is read may depend on who reads.
            result.ttl_ms, result.cache_scope = self._read_ttls.get(key, 0), "private"
        return result

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        if not await self.offers_resource(uri, current_call.get().principal):
            raise MCPError(jsonrpc.RESOURCE_NOT_FOUND, f"Unknown resource: {uri[:200]}", {"uri": uri[:200]})
        await cast(Call, ctx.request).session.change_subscription(uri, subscribed=True)
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        await cast(Call, ctx.request).session.change_subscription(str(params.uri), subscribed=False)
        return EmptyResult()

    async def _complete(self, ctx: ServerRequestContext[Any, Any], params: CompleteRequestParams) -> CompleteResult:
        await self._check_completed(params)
        self._own(SDKContext(request_context=ctx, mcp_server=self))
        for complete in self._completions:
            found = await complete(params.ref, params.argument, params.context)
            if found is not None:
                return CompleteResult(completion=limited(found))
        return CompleteResult(completion=Completion(values=[], total=None, has_more=None))

    async def _check_completed(self, params: CompleteRequestParams) -> None:
        """See that what is completed is there for the caller: its arguments' values would tell of it."""
        principal, ref = current_call.get().principal, params.ref
        if isinstance(ref, PromptReference):
            if not await self.offers_prompt(ref.name, principal):
                raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown prompt: {ref.name[:200]}.")
        elif not await self.offers_template(ref.uri, principal):
            raise MCPError(jsonrpc.INVALID_PARAMS, f"Unknown resource template: {ref.uri[:200]}.")


def cache_hints(owner: MCPServer, registrations: Sequence[Registration]) -> dict[CacheableMethod, CacheHint]:
    """For whom clients may keep the lists: for anybody, unless they depend on who asks."""
    limited = any(r.options.get("permission") is not None or r.options.get("scopes") for r in registrations)
    scope: Literal["public", "private"] = "private" if limited or not owner.is_public else "public"
    return dict.fromkeys(LIST_METHODS, CacheHint(owner.cache_ttl // MILLISECOND, scope))


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


def mirrored(tool: SDKTool) -> bool:
    """Whether arguments of a tool are mirrored in ``Mcp-Param-*`` headers (SEP-2243)."""
    return bool(x_mcp_header_map(tool.parameters))


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
