"""What this package relies on in the SDK beyond its documented API, one test for each seam.

A new release of the SDK is to fail here first. Each message says what was relied on, and where to look.
"""

from __future__ import annotations

import ast
import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

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
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import DispatchContext, Outbound
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.shared.uri_template import UriTemplate
from mcp_types import version as versions
from opentelemetry import trace
from pydantic import BaseModel, ValidationError

import mcp_django
from mcp_django import Context, MCPServer
from mcp_django.calls import Call
from mcp_django.kernel import Kernel
from mcp_django.pagination import LISTS
from mcp_django.sessions import negotiated, parse_initialize_params
from mcp_django.testing import ClientError, connect
from tests.unit.records import PARAMS

pytestmark = pytest.mark.anyio

SOURCES = Path(mcp_django.__file__).parent
SDK_MODULES = {"bindings", "calls", "context", "kernel", "legacy", "pagination"}


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


@pytest.mark.parametrize("method", ["logging/setLevel", "completion/complete", "subscriptions/listen"])
def test_it_registers_no_handler_for_what_we_add_or_cannot_deliver(sdk: SDKServer[Any], method: str) -> None:
    assert sdk._lowlevel_server.get_request_handler(method) is None, (
        f"The SDK serves {method} by itself now: see Kernel.__init__ and Kernel._deliverable."
    )


def test_its_first_middleware_is_the_tracing_that_we_pass_over(sdk: SDKServer[Any], server: MCPServer) -> None:
    assert isinstance(sdk._lowlevel_server.middleware[0], OpenTelemetryMiddleware), "kernel.traced finds it by class."
    ours = server.kernel._lowlevel_server.middleware
    assert len(ours) == len(sdk._lowlevel_server.middleware)
    assert not any(isinstance(middleware, OpenTelemetryMiddleware) for middleware in ours), "kernel.traced"
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), (
        "kernel.traced takes a ProxyTracerProvider for 'no tracer configured'."
    )


def test_its_capabilities_can_be_replaced(sdk: SDKServer[Any]) -> None:
    options = sdk._lowlevel_server.create_initialization_options(NotificationOptions())
    assert {"logging", "tools", "prompts", "resources", "completions"} <= set(type(options.capabilities).model_fields)
    copy = options.capabilities.model_copy()
    copy.tools = None
    options.capabilities = copy
    assert options.capabilities.tools is None, "Kernel._deliverable sets None for what cannot be delivered."


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


def test_our_context_hides_nothing_of_the_sdks_but_what_it_means_to() -> None:
    ours = {name for name in vars(Context) if not name.startswith("_")} - set(vars(BaseModel))
    hidden = {name for name in ours if hasattr(SDKContext, name)} - {"model_config", "model_fields"}
    meant = {"session_id", "client_info"}
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
    wanted = {"related_request_id", "request_context", "can_send_request"}
    assert wanted <= parameters(ServerMessageMetadata), "Call.message_metadata"
    assert parameters(NoBackChannelError) == {"method"}, "Call.send_raw_request"


def test_a_request_context_has_what_the_kernel_reads() -> None:
    assert {"request", "method", "params"} <= set(ServerRequestContext.__dataclass_fields__), "Kernel._set_level"


def test_an_error_carries_code_message_and_data() -> None:
    error = MCPError(-32602, "text", {"a": 1})
    assert (error.code, error.message, error.data) == (-32602, "text", {"a": 1}), "legacy.failed"
    assert MCPError(-1, "text").data is None


def test_uri_templates_name_their_variables() -> None:
    assert set(UriTemplate.parse("lib://{shelf}/{isbn}").variable_names) == {"shelf", "isbn"}, "Kernel._add_resource"
    assert not UriTemplate.parse("lib://books").variable_names


# mcp_types


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


async def a_prompt(mood: str, count: int = 1) -> str:
    if mood == "cause an error":
        raise ToolError("no mood")
    return mood
