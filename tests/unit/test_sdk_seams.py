"""What this package relies on in the SDK beyond its documented API, one test for each seam.

A new release of the SDK is to fail here first. Each message says what was relied on, and where to look.
"""

from __future__ import annotations

import ast
import inspect
import logging
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import anyio
import mcp_types
import pytest
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import Context as SDKContext
from mcp.server.mcpserver import MCPServer as SDKServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.resolve import Resolve, find_resolved_parameters
from mcp.server.mcpserver.utilities.context_injection import find_context_parameter
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import CallOptions, DispatchContext, Outbound
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    ClientCapabilities,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types import version as versions
from opentelemetry import trace
from pydantic import BaseModel, ValidationError

import mcp_django
from mcp_django import Context, MCPServer, questions
from mcp_django.calls import LOG_LEVELS, Call
from mcp_django.cursors import NOTICES
from mcp_django.exchanges import Exchange
from mcp_django.kernel import Failed, Kernel
from mcp_django.pagination import LISTS
from mcp_django.sessions import negotiated, parse_initialize_params
from mcp_django.testing import ClientError, connect
from tests.unit.records import PARAMS

pytestmark = pytest.mark.anyio

SOURCES = Path(mcp_django.__file__).parent
SDK_MODULES = {
    "bindings",
    "calls",
    "context",
    "handshake",
    "kernel",
    "legacy",
    "limits",
    "listening",
    "modern",
    "offers",
    "pagination",
    "questions",
    "rounds",
    "server",  # for a type only
    "session_calls",
    "slots",
}


@contextmanager
def bare_root_logger() -> Iterator[logging.Logger]:
    """The root logger without handlers, as in a project that configures none; afterwards as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def sdk() -> SDKServer[Any]:
    """A server of the SDK's own."""
    with bare_root_logger():
        return SDKServer("seams", subscriptions=False)


@pytest.fixture
def server(no_servers: None, in_memory: None) -> MCPServer:
    """A server of ours."""
    return MCPServer("seams")


def parameters(fn: Any) -> set[str]:
    return set(inspect.signature(fn).parameters)


# Where the SDK is used


def test_the_release_is_one_that_this_package_was_made_for() -> None:
    major, minor = (int(part) for part in version("mcp").split(".")[:2])
    assert (major, minor) >= (2, 3), "pyproject.toml: the range of the dependency mcp"
    assert major == 2, "A new major release: go through every seam below, then raise the range in pyproject.toml."


def test_the_sdks_server_side_is_imported_in_few_modules() -> None:
    found = {
        path.relative_to(SOURCES).with_suffix("").as_posix()
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mcp"
    }
    assert found <= SDK_MODULES, "Use the kernel from there, or add the module here and a test for each seam it needs."


# mcp.server.mcpserver.MCPServer


def test_its_constructor_takes_our_servers_identity(no_servers: None) -> None:
    wanted = {*MCPServer("identity").identity, "subscriptions"}
    assert wanted <= parameters(SDKServer.__init__), "Kernel.__init__ and MCPServer.identity: an argument has gone."


def test_its_constructor_configures_the_root_logger() -> None:
    with bare_root_logger() as root:
        SDKServer("seams")
        assert root.handlers, "It does so no longer: Kernel.__init__ need not put the root logger back."


def test_our_kernel_leaves_the_root_logger_as_found(server: MCPServer) -> None:
    with bare_root_logger() as root:
        level = root.level
        server.kernel  # noqa: B018
        assert root.handlers == [], "Kernel.__init__: the SDK configures root logging in another way now."
        assert root.level == level


def test_its_low_level_server_is_a_private_attribute(sdk: SDKServer[Any]) -> None:
    low = getattr(sdk, "_lowlevel_server", None)
    assert low is not None, "Kernel: _lowlevel_server has another name. It is the only way to the handler registry."
    assert parameters(low.add_request_handler) == {"method", "params_type", "handler"}, "Kernel.__init__"
    assert isinstance(low.middleware, list), "Kernel.__init__ replaces the middleware list's items in place."


@pytest.mark.parametrize(
    "method",
    [
        *("logging/setLevel", "completion/complete", "subscriptions/listen"),
        *("resources/subscribe", "resources/unsubscribe"),
    ],
)
def test_it_registers_no_handler_for_what_we_add_or_cannot_deliver(sdk: SDKServer[Any], method: str) -> None:
    assert sdk._lowlevel_server.get_request_handler(method) is None, (
        f"The SDK serves {method} by itself now: see Kernel.__init__ and Kernel._initialization."
    )


def test_its_first_middleware_is_the_tracing_that_we_pass_over(sdk: SDKServer[Any], server: MCPServer) -> None:
    assert isinstance(sdk._lowlevel_server.middleware[0], OpenTelemetryMiddleware), "kernel.traced finds it by class."
    ours = server.kernel._lowlevel_server.middleware
    assert len(ours) == len(sdk._lowlevel_server.middleware)
    assert not any(isinstance(middleware, OpenTelemetryMiddleware) for middleware in ours), "kernel.traced"
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), (
        "kernel.traced takes a ProxyTracerProvider for 'no tracer configured'."
    )


def test_what_a_handler_is_registered_for_is_a_capability(sdk: SDKServer[Any]) -> None:
    low = sdk._lowlevel_server
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, nothing)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, nothing)
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    options = low.create_initialization_options(changes)
    assert isinstance(options, InitializationOptions), "Kernel._initialization"
    capabilities = options.capabilities.model_dump(by_alias=True, exclude_none=True)
    assert capabilities["logging"] == {}, "Kernel._initialization takes it away where nothing can be sent."
    assert capabilities["resources"] == {"subscribe": True, "listChanged": True}, "Kernel._initialization"
    assert capabilities["tools"] == capabilities["prompts"] == {"listChanged": True}, "Kernel._initialization"


async def test_our_kernel_tells_a_client_what_can_be_delivered_to_it_and_nothing_else(server: MCPServer) -> None:
    server.tool()(a_tool)
    server.resource("lib://books")(a_tool_without_arguments)
    async with connect(server) as client:
        capabilities = client.initialize_result["capabilities"]
    assert capabilities["logging"] == {}
    assert capabilities["tools"] == {"listChanged": True}
    assert capabilities["resources"] == {"subscribe": True, "listChanged": True}
    assert "prompts" not in capabilities, "Kernel._initialization: no capability without a registration behind it."
    without = server.kernel._options[False].capabilities.model_dump(by_alias=True, exclude_none=True)
    assert without["tools"] == {"listChanged": False}
    assert without["resources"] == {"listChanged": False}
    assert "logging" not in without, "Kernel._initialization: under WSGI no message can be sent."


def test_resources_are_asked_for_by_their_uris_and_templates_by_what_they_match(sdk: SDKServer[Any]) -> None:
    sdk.resource("lib://books")(a_tool_without_arguments)
    sdk.resource("lib://books/{query}")(a_tool)
    manager = sdk._resource_manager
    assert [str(resource.uri) for resource in manager.list_resources()] == ["lib://books"], "Kernel._has_resource"
    (template,) = manager.list_templates()
    assert template.matches("lib://books/978") is not None, "Kernel._has_resource"
    assert template.matches("lib://shelves") is None, "Kernel._has_resource tells unknown resources by None."


@pytest.mark.parametrize("params", [SubscribeRequestParams, UnsubscribeRequestParams])
def test_what_is_subscribed_to_is_a_uri_as_it_came(params: Any) -> None:
    for uri in ("lib://books", "LIB://Books/ü ?#", "no uri"):
        assert str(params.model_validate({"uri": uri}).uri) == uri, (
            "Kernel._subscribe keeps the text, and notices are told by it: it must not be normalised."
        )


def test_its_capabilities_can_be_replaced(sdk: SDKServer[Any]) -> None:
    options = sdk._lowlevel_server.create_initialization_options(NotificationOptions())
    assert {"logging", "tools", "prompts", "resources", "completions"} <= set(type(options.capabilities).model_fields)
    copy = options.capabilities.model_copy()
    copy.tools = None
    options.capabilities = copy
    assert options.capabilities.tools is None, "Kernel._initialization sets None for what cannot be delivered."


def test_the_tool_manager_gives_tools_whose_schema_can_be_replaced(sdk: SDKServer[Any]) -> None:
    sdk.add_tool(a_tool)
    tool = sdk._tool_manager.get_tool("a_tool")
    assert tool is not None, "Kernel._add_tool and Kernel.call_tool"
    assert sdk._tool_manager.get_tool("no_such_tool") is None, "Kernel.call_tool tells unknown tools by None."
    assert [tool.name for tool in sdk._tool_manager.list_tools()] == ["a_tool"], "Kernel._fingerprint"
    tool.parameters = {"type": "object"}
    assert anyio.run(sdk.list_tools)[0].input_schema == {"type": "object"}, "Kernel._add_tool: input_schema"


def test_the_prompt_manager_gives_prompts_with_their_required_arguments(sdk: SDKServer[Any]) -> None:
    sdk.prompt("advice")(a_prompt)
    prompt = sdk._prompt_manager.get_prompt("advice")
    assert prompt is not None, "Kernel.get_prompt"
    assert sdk._prompt_manager.get_prompt("no such prompt") is None, "Kernel.get_prompt tells unknown prompts by None."
    assert [(argument.name, argument.required) for argument in prompt.arguments or ()] == [
        ("mood", True),
        ("count", False),
    ], "Kernel.get_prompt checks required arguments itself, to answer -32602."


@pytest.mark.parametrize("arguments", [{"mood": "cause an error"}, {"mood": "glad", "count": "no number"}])
async def test_get_prompt_wraps_what_a_prompt_raises_twice(sdk: SDKServer[Any], arguments: dict[str, str]) -> None:
    sdk.prompt("advice")(a_prompt)
    with pytest.raises(ValueError, match="Error rendering prompt") as caught:
        await sdk.get_prompt("advice", arguments)
    cause = caught.value.__cause__ and caught.value.__cause__.__cause__
    assert isinstance(cause, (ToolError, ValidationError)), (
        "Kernel.get_prompt finds the function's error at __cause__.__cause__, and answers by its class."
    )


async def test_read_resource_says_that_a_resource_is_unknown_by_its_own_error(sdk: SDKServer[Any]) -> None:
    with pytest.raises(ResourceNotFoundError):
        await sdk.read_resource("no://such")


def test_a_resource_without_variables_gets_no_context(sdk: SDKServer[Any]) -> None:
    def fn(ctx: SDKContext[Any, Any]) -> str:
        return ""

    with pytest.raises(ValueError, match="Context"):
        sdk.resource("static://one")(fn)
    # If it takes one now, bindings.without_context is no longer needed.


async def test_requests_go_through_the_public_methods_that_we_override(server: MCPServer) -> None:
    def done() -> str:
        return "done"

    server.tool("t")(done)
    server.resource("r://r")(done)
    server.prompt("p")(done)
    calls: list[str] = []

    class Watched(Kernel):
        async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("call_tool")
            return await super().call_tool(*args, **kwargs)

        async def read_resource(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("read_resource")
            return await super().read_resource(*args, **kwargs)

        async def get_prompt(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("get_prompt")
            return await super().get_prompt(*args, **kwargs)

    server.kernel.__class__ = Watched
    async with connect(server) as client:
        await client.call_tool("t")
        await client.request("resources/read", {"uri": "r://r"})
        await client.request("prompts/get", {"name": "p"})
    assert calls == ["call_tool", "read_resource", "get_prompt"], (
        "The SDK's handlers take another way now: our Context and our error codes are put in there (Kernel)."
    )


async def test_a_tool_error_is_for_the_model_and_any_other_text_stays_here(server: MCPServer) -> None:
    @server.tool()
    def fail(deliberately: bool) -> None:
        if deliberately:
            raise ToolError("Try another title.")
        raise LookupError("a secret of the server")

    async with connect(server) as client:
        told = await client.call_tool("fail", {"deliberately": True})
        kept = await client.call_tool("fail", {"deliberately": False})
    assert told["isError"] is kept["isError"] is True
    assert "Try another title." in told["content"][0]["text"], "bindings.prepared turns HandlerError into ToolError."
    assert "secret" not in str(kept), "The SDK shows the text of unexpected errors: Kernel.call_tool must hide it."


async def test_its_tool_handler_needs_no_more_of_a_server_than_this_to_say_what_a_failure_means() -> None:
    params = mcp_types.CallToolRequestParams(name="fail")
    result = await SDKServer._handle_call_tool(Failed(ToolError("Try another.")), None, params)  # type: ignore[arg-type]
    assert isinstance(result, mcp_types.CallToolResult), "Kernel._handle_call_tool"
    assert (result.is_error, result.content[0].text) == (True, "Try another.")  # type: ignore[union-attr]


@pytest.mark.parametrize("method", LISTS)
async def test_lists_leave_the_runner_as_plain_dicts_with_these_keys(server: MCPServer, method: str) -> None:
    async with connect(server) as client:
        result = await client.request(method)
    assert result == {LISTS[method]: []}, "pagination.page cuts these lists into pages."


# mcp.server.mcpserver.Context


def test_its_context_can_be_adopted_as_ours() -> None:
    context = SDKContext[Any, Any](mcp_server=None)
    adopted = Context.adopt(context)
    assert adopted is context, "Context.adopt changes the class of the SDK's object."
    assert isinstance(adopted, Context)
    assert not set(Context.model_fields) - set(SDKContext.model_fields), "adopt() skips __init__: no fields."


def test_its_context_is_made_with_these_arguments() -> None:
    assert {"request_context", "mcp_server"} <= parameters(SDKContext.__init__), "Kernel._complete"


def test_what_calls_read_often_is_private_to_pydantic() -> None:
    read = {"_request_context", "_mcp_server", "_input_params", "_subscriptions"}
    assert set(SDKContext.__private_attributes__) == read, "Context._copied_for copies all, and replaces two."
    assert set(FuncMetadata.__private_attributes__) == {"_adapter"}, "Kernel.ToolMetadata reads it quickly."
    context = Context.adopt(SDKContext[Any, Any](mcp_server=None))
    assert context._input_params is None, "QuickPrivates"
    with pytest.raises(AttributeError):
        context._nothing_of_this_name  # noqa: B018
    assert context._copied_for(None, None) is not context  # type: ignore[arg-type]


def test_our_context_hides_nothing_of_the_sdks_but_what_it_means_to() -> None:
    ours = {name for name in vars(Context) if not name.startswith("_")} - set(vars(BaseModel))
    hidden = {name for name in ours if hasattr(SDKContext, name)} - {"model_config", "model_fields"}
    changes = {"tools_changed", "prompts_changed", "resources_changed", "resource_updated"}
    meant = {"session_id", "client_info", *(f"notify_{change}" for change in changes)}
    assert hidden <= meant, f"The SDK's Context has {hidden - meant} now: rename ours, or say here that it is meant."


def test_context_parameters_are_found_by_their_class_whatever_their_name() -> None:
    def named(whatever: Context, other: int) -> None: ...

    def optional(ctx: Context | None = None) -> None: ...

    def without(other: int) -> None: ...

    assert find_context_parameter(named) == "whatever", "bindings.with_context and the SDK's own injection"
    assert find_context_parameter(optional) == "ctx"
    assert find_context_parameter(without) is None


async def test_what_rides_in_the_message_metadata_is_the_handlers_request(server: MCPServer) -> None:
    @server.tool()
    def who(ctx: Context) -> bool:
        return isinstance(ctx.request_context.request, Call) and ctx.call.session.digest != ""

    async with connect(server) as client:
        assert (await client.call_tool("who"))["structuredContent"] == {"result": True}, (
            "Call.message_metadata.request_context must arrive as request_context.request: Context.call and everything "
            "else of ours in handlers comes from there."
        )


# Resolvers


def author(isbn: str) -> str:
    return f"{isbn} {threading.current_thread().name}"


def signed(by: Annotated[str, Resolve(author)]) -> str:
    return f"{by} {threading.current_thread().name}"


def test_resolver_markers_are_the_objects_that_stand_in_annotations_and_their_function_can_be_replaced() -> None:
    def tool(isbn: str, by: Any) -> None: ...

    marker = Resolve(author)
    tool.__annotations__["by"] = Annotated[str, marker]
    assert find_resolved_parameters(tool) == {"by": (marker, False)}, "Kernel._add_tool reads (marker, wants_union)."
    marker.fn = signed
    assert find_resolved_parameters(tool)["by"][0].fn is signed, (
        "Kernel._add_tool replaces marker.fn, so that sync resolvers run in our threads and not in AnyIO's."
    )


def test_resolver_markers_in_annotations_that_are_strings_are_made_anew_at_each_look() -> None:
    def tool(isbn: str, by: Annotated[str, Resolve(author)]) -> None: ...

    first, second = (find_resolved_parameters(tool)["by"][0] for _ in range(2))
    assert first is not second, "They are kept now: replacing marker.fn would do without resolving annotations."


async def test_sync_resolvers_run_in_our_threads(server: MCPServer) -> None:
    """Django never closes the connections of AnyIO's."""

    @server.tool()
    async def tool(isbn: str, by: Annotated[str, Resolve(author)]) -> str:
        return by

    async with connect(server) as client:
        result = await client.call_tool("tool", {"isbn": "978"})
    assert result["structuredContent"]["result"].startswith("978 mcp-django-call"), "Kernel._add_tool"


async def test_sync_resolvers_of_resolvers_run_in_our_threads(server: MCPServer) -> None:
    @server.tool()
    async def tool(isbn: str, by: Annotated[str, Resolve(signed)]) -> str:
        return by

    async with connect(server) as client:
        result = await client.call_tool("tool", {"isbn": "978"})
    assert result["structuredContent"]["result"].count("mcp-django-call") == 2, (
        "Kernel._add_tool must go on to the resolvers' own parameters."
    )


# mcp.server.runner, mcp.server.connection, mcp.shared


def test_the_runner_is_made_of_server_connection_and_lifespan() -> None:
    assert list(inspect.signature(ServerRunner).parameters) == [
        "server",
        "connection",
        "lifespan_state",
        "init_options",
    ], "Kernel._runner"
    for name in ("on_request", "on_notify"):
        assert hasattr(ServerRunner, name), f"Kernel uses ServerRunner.{name}"


def test_a_connection_is_made_for_each_request_with_the_session_in_it() -> None:
    assert parameters(Connection) == {"outbound", "protocol_version", "session_id", "client_params"}, "Kernel._runner"
    params = mcp_types.InitializeRequestParams.model_validate(PARAMS)
    connection = Connection(Outboard(), protocol_version="2025-06-18", session_id="id", client_params=params)
    assert (connection.protocol_version, connection.session_id) == ("2025-06-18", "id")
    assert connection.client_capabilities == params.capabilities
    assert connection.initialize_accepted, "A connection with client params must take requests without a handshake."
    assert not connection.initialized.is_set()
    connection.initialized.set()


class Outboard:
    """The least that the SDK takes for an outbound channel."""

    async def send_raw_request(self, method: str, params: Any, opts: Any = None) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Any, opts: Any = None) -> None: ...


@pytest.mark.parametrize("protocol", [Outbound, DispatchContext])
def test_our_call_has_everything_that_a_dispatch_context_has(protocol: type) -> None:
    wanted = {name for name in vars(protocol) if not name.startswith("_")}
    assert wanted
    assert wanted <= set(dir(Call)), f"calls.Call lacks {wanted - set(dir(Call))} of the SDK's {protocol.__name__}."


def test_transport_and_metadata_are_made_with_these_arguments() -> None:
    assert {"kind", "can_send_request", "headers"} <= parameters(TransportContext), "Call.transport"
    wanted = {"related_request_id", "request_context", "close_sse_stream", "can_send_request"}
    assert wanted <= parameters(ServerMessageMetadata), "Call.message_metadata"
    assert "timeout" in CallOptions.__annotations__, "Call.send_raw_request waits as long as this says."


def test_a_request_context_has_what_the_kernel_reads() -> None:
    assert {"request", "method", "params"} <= set(ServerRequestContext.__dataclass_fields__), "Kernel._set_level"


def test_an_error_carries_code_message_and_data() -> None:
    error = MCPError(-32602, "text", {"a": 1})
    assert (error.code, error.message, error.data) == (-32602, "text", {"a": 1}), "legacy.failed"
    assert MCPError(-1, "text").data is None


def test_uri_templates_name_their_variables() -> None:
    assert set(UriTemplate.parse("lib://{shelf}/{isbn}").variable_names) == {"shelf", "isbn"}, "Kernel._add_resource"
    assert not UriTemplate.parse("lib://books").variable_names


# What a call sends to its client


class Sent:
    """What calls send, noted in place of being sent; questions are answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[tuple[str, dict[str, Any], float | None]] = []
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        self.closed = 0
        monkeypatch.setattr(questions, "ask", self._ask)
        monkeypatch.setattr(Call, "notify", self._notify)
        monkeypatch.setattr(Call, "close_connection", self._close)

    async def _ask(self, exchange: Exchange, method: str, params: Any, seconds: float | None) -> dict[str, Any]:
        self.questions.append((method, dict(params or {}), seconds))
        answers: dict[str, dict[str, Any]] = {
            "elicitation/create": {"action": "accept", "content": {"mood": "glad"}},
            "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"},
            "roots/list": {"roots": [{"uri": "file:///a"}]},
            "ping": {},
        }
        return answers[method]

    async def _notify(self, method: str, params: Any, opts: Any = None) -> None:
        self.notifications.append((method, dict(params or {})))

    async def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


class Mood(BaseModel):
    mood: str


async def ran(server: MCPServer, tool: Callable[[Context], Awaitable[Any]]) -> dict[str, Any]:
    """What a tool returns to a client that declared everything."""

    @server.tool("tool", structured_output=False)
    async def run(ctx: Context) -> str:
        with warnings.catch_warnings():
            # Much of it is deprecated in a later revision than those with a handshake.
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            return str(await tool(ctx))

    def never(params: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("the test answers for the client")

    methods = ("elicitation/create", "sampling/createMessage", "roots/list")
    async with connect(server, answers=dict.fromkeys(methods, never)) as client:
        result = await client.call_tool("tool")
    assert not result.get("isError"), result
    return result


async def test_a_form_is_asked_for_by_these_params_on_the_calls_own_channel(server: MCPServer, sent: Sent) -> None:
    async def tool(ctx: Context) -> Any:
        answer = await ctx.elicit("How are you?", Mood)
        assert answer.action == "accept"
        return answer.data.mood

    result = await ran(server, tool)
    assert result["content"][0]["text"] == "glad"
    ((method, params, seconds),) = sent.questions
    assert (method, params["mode"], seconds) == ("elicitation/create", "form", None), "questions.check_elicitation"
    assert params["requestedSchema"]["properties"]["mood"] == {"title": "Mood", "type": "string"}


async def test_a_url_is_asked_for_by_its_mode(server: MCPServer, sent: Sent) -> None:
    await ran(server, lambda ctx: ctx.elicit_url("Pay", "https://pay.example", "e1"))
    ((method, params, _seconds),) = sent.questions
    assert (method, params["mode"]) == ("elicitation/create", "url"), "questions.check_elicitation"
    assert (params["url"], params["elicitationId"]) == ("https://pay.example", "e1")


async def test_sampling_names_tools_only_if_it_has_some(server: MCPServer, sent: Sent) -> None:
    message = mcp_types.SamplingMessage(role="user", content=mcp_types.TextContent(type="text", text="hi"))
    await ran(server, lambda ctx: ctx.session.create_message([message], max_tokens=1))
    ((method, params, _seconds),) = sent.questions
    assert method == "sampling/createMessage"
    assert not {"tools", "toolChoice"} & set(params), "questions.check_sampling tells by these keys."
    wanted = mcp_types.CreateMessageRequestParams(
        messages=[message], max_tokens=1, tools=[], tool_choice=mcp_types.ToolChoice()
    )
    assert {"tools", "toolChoice"} <= set(wanted.model_dump(by_alias=True, exclude_none=True))


@pytest.mark.parametrize(
    ("name", "method"), [("list_roots", "roots/list"), ("send_ping", "ping")], ids=["roots", "ping"]
)
async def test_questions_without_a_related_request_come_to_the_call_as_well(
    server: MCPServer, sent: Sent, name: str, method: str
) -> None:
    await ran(server, lambda ctx: getattr(ctx.session, name)())
    assert [asked for asked, _params, _seconds in sent.questions] == [method], (
        "They go to connection.outbound, which Kernel._runner makes the call: they ride its stream."
    )


async def test_the_patience_of_a_question_comes_as_an_option(server: MCPServer, sent: Sent) -> None:
    ping, empty = mcp_types.PingRequest(), mcp_types.EmptyResult
    await ran(server, lambda ctx: ctx.session.send_request(ping, empty, request_read_timeout_seconds=7))
    assert sent.questions == [("ping", {}, 7)], "Call.send_raw_request: opts['timeout']"


async def test_a_question_that_cannot_be_asked_is_told_to_the_model_in_our_words(server: MCPServer) -> None:
    @server.tool()
    async def ask(ctx: Context) -> str:
        return (await ctx.elicit("How are you?", Mood)).action

    async with connect(server) as client:
        result = await client.call_tool("ask")
    assert result["isError"]
    assert "did not declare the capability `elicitation`" in result["content"][0]["text"], (
        "ClientCannot must come through the SDK's elicit() as it was raised by Call.send_raw_request."
    )


async def test_progress_is_the_calls_own(server: MCPServer, sent: Sent) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.report_progress(1, 2, "half")
        await ctx.report_progress(2)

    await ran(server, tool)
    assert [method for method, _params in sent.notifications] == ["notifications/progress"] * 2, "Call.progress"
    (_method, first), (_method, second) = sent.notifications
    assert first == {"progressToken": 2, "progress": 1, "total": 2, "message": "half"}
    assert second == {"progressToken": 2, "progress": 2}


async def test_a_log_message_has_its_level_where_it_is_looked_for(server: MCPServer, sent: Sent) -> None:
    await ran(server, lambda ctx: ctx.warning("careful"))
    assert sent.notifications == [("notifications/message", {"level": "warning", "data": "careful"})], "Call._wanted"
    assert get_args(mcp_types.LoggingLevel) == LOG_LEVELS, "calls.LOG_LEVELS, the least first"


async def test_changes_are_told_by_the_names_that_standalone_streams_carry(server: MCPServer, sent: Sent) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.session.send_tool_list_changed()
        await ctx.session.send_prompt_list_changed()
        await ctx.session.send_resource_list_changed()
        await ctx.session.send_resource_updated("lib://a")

    await ran(server, tool)
    assert [method for method, _params in sent.notifications] == [*NOTICES.values()], (
        "Call.notify tells by these methods what belongs on the session's standalone stream (calls.CHANGES)."
    )


async def test_the_callback_that_closes_a_stream_is_the_calls(server: MCPServer, sent: Sent) -> None:
    await ran(server, lambda ctx: ctx.close_sse_stream())
    assert sent.closed == 1, "Call.message_metadata.close_sse_stream must be what ctx.close_sse_stream() calls."


async def test_its_own_notices_need_a_bus_that_we_do_not_have() -> None:
    with pytest.raises(ValueError, match="not available"):
        await SDKContext[Any, Any](mcp_server=None).notify_tools_changed()
    # If they work without one now, Context.notify_* may no longer be needed.


# mcp_types


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, (False, False, False, False, False, False)),
        ({"elicitation": {}}, (True, False, False, False, False, False)),
        ({"elicitation": {"form": {}}}, (True, True, False, False, False, False)),
        ({"elicitation": {"url": {}}}, (True, False, True, False, False, False)),
        ({"sampling": {}}, (False, False, False, True, False, False)),
        ({"sampling": {"tools": {}}}, (False, False, False, True, True, False)),
        ({"roots": {"listChanged": True}}, (False, False, False, False, False, True)),
    ],
    ids=str,
)
def test_what_a_client_declared_is_told_by_what_is_not_none(
    declared: dict[str, Any], expected: tuple[bool, ...]
) -> None:
    capabilities = ClientCapabilities.model_validate(declared)
    elicitation, sampling = capabilities.elicitation, capabilities.sampling
    found = [
        elicitation,
        elicitation and elicitation.form,
        elicitation and elicitation.url,
        sampling,
        sampling and sampling.tools,
        capabilities.roots,
    ]
    assert tuple(value is not None for value in found) == expected, "questions.check and what it calls"


def test_the_versions_with_a_handshake_are_those_that_this_package_knows() -> None:
    assert versions.HANDSHAKE_PROTOCOL_VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"), (
        "A handshake version was added or removed: legacy.BATCHING_VERSIONS, the docs, and the clients tested with."
    )
    assert versions.LATEST_HANDSHAKE_VERSION == "2025-11-25"
    assert "2026-07-28" in versions.MODERN_PROTOCOL_VERSIONS
    assert mcp_types.PROTOCOL_VERSION_META_KEY == "io.modelcontextprotocol/protocolVersion", "endpoint.has_envelope"


@pytest.mark.parametrize("offered", [*versions.HANDSHAKE_PROTOCOL_VERSIONS, "2026-07-28", "1999-01-01", "", "x" * 50])
async def test_the_sdk_negotiates_the_version_that_we_store(server: MCPServer, offered: str) -> None:
    async with connect(server, protocol_version=offered) as client:
        assert client.protocol_version == negotiated(offered), (
            "sessions.negotiated must agree with ServerRunner: one is stored, the other is what the client is told."
        )


async def test_unknown_methods_are_method_not_found(server: MCPServer) -> None:
    async with connect(server) as client:
        with pytest.raises(ClientError) as caught:
            await client.request("no/such/method")
    assert (caught.value.status, caught.value.code) == (200, -32601)


def test_initialize_params_are_read_by_their_wire_names_only() -> None:
    text = '{"protocolVersion":"2025-11-25","capabilities":{"x":1},"clientInfo":{"name":"n","version":"1"},"more":[1]}'
    params = parse_initialize_params(text)
    assert (params.client_info.name, params.client_info.version) == ("n", "1"), "sessions.new_record"
    with pytest.raises(ValidationError):
        parse_initialize_params(text.replace("clientInfo", "client_info"))


async def a_tool(query: str) -> str:
    return query


def a_tool_without_arguments() -> str:
    return "books"


async def nothing(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    return mcp_types.EmptyResult()


async def a_prompt(mood: str, count: int = 1) -> str:
    if mood == "cause an error":
        raise ToolError("no mood")
    return mood
