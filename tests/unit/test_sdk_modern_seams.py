"""What the stateless era relies on in the SDK beyond its documented API, one test for each seam.

A new release of the SDK is to fail here first. Each message says what was relied on, and where to look.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Annotated, Any

import pytest
from mcp.server.apps import Apps
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection
from mcp.server.extension import Extension
from mcp.server.mcpserver import Context as SDKContext
from mcp.server.mcpserver import Elicit, Resolve
from mcp.server.mcpserver import MCPServer as SDKServer
from mcp.server.mcpserver.tools import Tool
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState, RequestStateSecurity
from mcp.server.runner import ServerRunner
from mcp.shared import inbound
from mcp.shared.inbound import InboundLadderRejection, InboundModernRoute
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    CallToolRequestParams,
    ClientCapabilities,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    InputResponseRequestParams,
    ReadResourceResult,
    methods,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from mcp_django import MCPServer, jsonrpc, modern, rounds
from tests.unit.test_sdk_seams import a_tool, bare_root_logger, parameters

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
ENVELOPE = {PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: {}}
HEADERS = {"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}


class Mood(BaseModel):
    mood: str


def mood_of_user() -> Elicit[Mood]:
    return Elicit("How do you do?", Mood)


async def tool_that_asks(answer: Annotated[Mood, Resolve(mood_of_user)]) -> str:
    return answer.mood


class StatelessContext(SDKContext[Any, Any]):
    """What a resolver reads of a request: its version, what the client can do, and what it has answered."""

    @property
    def protocol_version(self) -> str:
        return MODERN

    @property
    def client_capabilities(self) -> ClientCapabilities:
        return ClientCapabilities.model_validate({"elicitation": {}})

    def __init__(self, params: Any) -> None:
        SDKContext.__init__(self, input_params=params)


@pytest.fixture
def server(no_servers: None, in_memory: None) -> MCPServer:
    return MCPServer("seams")


def body(meta: Any = None, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta or ENVELOPE, **params}}


# mcp.shared.inbound


def test_the_versions_without_a_handshake_are_those_that_this_package_was_made_for() -> None:
    assert tuple(MODERN_PROTOCOL_VERSIONS) == (MODERN,), "modern.py: a new revision; go through what it changes."


def test_the_ladder_takes_a_body_and_headers_with_lower_case_names() -> None:
    route = inbound.classify_inbound_request(body(), headers=HEADERS)
    assert isinstance(route, InboundModernRoute), "modern.checked"
    assert (route.protocol_version, route.client_info, route.client_capabilities) == (MODERN, None, {}), (
        "modern.Envelope is made of these."
    )
    rejection = inbound.classify_inbound_request(body(), headers={**HEADERS, "mcp-method": "tools/call"})
    assert isinstance(rejection, InboundLadderRejection), "modern.checked tells by this class that it may not go on."
    assert (rejection.code, bool(rejection.message)) == (jsonrpc.HEADER_MISMATCH, True), "modern.rejected"


def test_it_does_not_look_for_headers_that_came_twice() -> None:
    joined = {**HEADERS, "mcp-method": "tools/list, tools/list"}
    assert isinstance(inbound.classify_inbound_request(body(), headers=joined), InboundLadderRejection)
    assert "headers" in parameters(inbound.classify_inbound_request), (
        "modern.checked refuses repeated headers itself, since the ladder sees a mapping."
    )


def test_the_codes_have_these_statuses() -> None:
    table = inbound.ERROR_CODE_HTTP_STATUS
    assert {table.get(code) for code in (-32700, -32600, -32602, -32020, -32021, -32022)} == {400}, "modern.STATUS"
    assert table[jsonrpc.METHOD_NOT_FOUND] == 404, "modern.STATUS"
    assert not {jsonrpc.SERVER_BUSY, jsonrpc.CALL_LOST, jsonrpc.INTERNAL_ERROR} & set(table), (
        "modern.STATUS: codes that are ours have a status of the SDK's now."
    )


def test_mirrored_arguments_are_found_in_schemas_and_compared_with_headers() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    assert inbound.x_mcp_header_map(schema) == {("region",): "Region"}, "kernel.mirrored"
    assert inbound.x_mcp_header_map({"type": "object"}) == {}, "kernel.mirrored"
    assert inbound.find_invalid_x_mcp_header(schema) is None, "Kernel._add_tool"
    wrong = {"type": "object", "properties": {"region": {"type": "number", "x-mcp-header": "Region"}}}
    assert isinstance(inbound.find_invalid_x_mcp_header(wrong), str), "Kernel._add_tool tells by a text what is wrong."
    check = inbound.validate_mcp_param_headers
    assert check(schema, {"region": "a"}, {"mcp-param-region": "a"}) is None, "modern.check_mirrored"
    assert isinstance(check(schema, {"region": "a"}, {}), InboundLadderRejection), "modern.check_mirrored"


# mcp.server.request_state


def test_states_are_sealed_by_a_codec_of_ours_for_a_principal_and_an_audience() -> None:
    wanted = {"codec", "ttl", "bind_principal", "audience"}
    assert wanted <= parameters(RequestStateSecurity.__init__), "rounds.security: an argument has gone."
    security = rounds.security("library")
    assert (security.audience, security.ttl) == ("library", timedelta(hours=1).total_seconds()), "rounds.security"


def test_the_codec_takes_several_keys_and_refuses_what_it_did_not_seal() -> None:
    old, new = AESGCMRequestStateCodec([b"1" * 32]), AESGCMRequestStateCodec([b"2" * 32, b"1" * 32])
    assert new.unseal(old.seal(b"state")) == b"state", "rounds._codec: the first key seals, each key opens."
    with pytest.raises(InvalidRequestState):
        old.unseal(new.seal(b"state"))


def test_the_boundary_is_a_middleware_behind_the_tracing(server: MCPServer) -> None:
    names = [type(middleware).__name__ for middleware in server.kernel._lowlevel_server.middleware]
    assert names[1:] == ["RequestStateBoundary"], "Kernel hands states over as the boundary has opened them."


# mcp.server.mcpserver


def test_the_constructor_takes_what_the_stateless_era_needs() -> None:
    wanted = {"request_state_security", "cache_hints", "subscriptions"}
    assert wanted <= parameters(SDKServer.__init__), "Kernel.__init__: an argument has gone."


def test_a_context_keeps_what_a_client_answered_in_its_input_params() -> None:
    params = CallToolRequestParams(name="t", request_state="kept", input_responses={})
    context: SDKContext[Any, Any] = SDKContext(input_params=params)
    assert context._input_params is params, "Context._hand_over replaces them by another copy."
    assert isinstance(params, InputResponseRequestParams), "Context._hand_over"
    assert (context.request_state, context.input_responses) == ("kept", {}), "Context._hand_over"


async def test_a_tool_lets_pass_what_is_no_exception_and_catches_what_is() -> None:
    """`InputRequired` leaves a handler through the SDK's and the handler's own `except Exception`."""

    async def asks() -> None:
        raise rounds.InputRequired

    with pytest.raises(rounds.InputRequired):
        await Tool.from_function(asks, name="asks").run({}, SDKContext())
    assert not issubclass(rounds.InputRequired, Exception), "rounds.InputRequired"


async def test_a_resolver_asks_a_stateless_client_by_a_result() -> None:
    """Its own state and its answers are handed to it again in later rounds, so that it need not ask twice."""

    asked = Tool.from_function(tool_that_asks)
    first = await asked.run({}, StatelessContext(None))
    assert isinstance(first, InputRequiredResult), "StatelessCall.conduct"
    assert first.input_requests is not None
    answers = {key: {"action": "accept", "content": {"mood": "well"}} for key in first.input_requests}
    wire = {"name": "tool", "requestState": first.request_state, "inputResponses": answers}
    params = CallToolRequestParams.model_validate(wire, by_name=False)
    for _round in range(2):
        assert await asked.run({}, StatelessContext(params)) == "well", (
            "rounds.Round: the same state and answers must have the same outcome in every later round."
        )


def test_reading_a_resource_goes_through_a_method_that_we_override() -> None:
    handler = SDKServer._handle_read_resource
    assert list(inspect.signature(handler).parameters) == ["self", "ctx", "params"], "Kernel._handle_read_resource"
    assert {"ttl_ms", "cache_scope"} <= set(ReadResourceResult.model_fields), "Kernel._handle_read_resource"


def test_lists_and_reads_are_what_clients_may_keep() -> None:
    assert {"server/discover", "tools/list", "resources/read"} <= set(methods.CACHEABLE_METHODS), "kernel.LIST_METHODS"
    assert (CacheHint().ttl_ms, CacheHint().scope) == (0, "private"), "kernel.LIST_METHODS"


def test_an_extension_is_taken_apart_by_its_methods(server: MCPServer) -> None:
    for name in ("tools", "resources", "methods", "settings"):
        assert callable(getattr(Extension, name, None)), f"Kernel._extend: Extension.{name} has gone."
    assert callable(getattr(SDKServer, "_install_extension_interceptor", None)), "Kernel._extend"
    assert server.kernel._extensions == [], "Kernel._extend adds to this list."
    apps = Apps()
    apps.tool(resource_uri="ui://a")(a_tool)
    apps.add_html_resource("ui://a", "<p>")
    (tool,), (resource,) = apps.tools(), apps.resources()
    assert (tool.fn, tool.meta, tool.kwargs) == (a_tool, {"ui": {"resourceUri": "ui://a"}}, {}), "Kernel._extend"
    assert resource.resource.uri == "ui://a", "Kernel._extend"


# mcp.server.connection and mcp.server.runner


def test_a_connection_knows_capabilities_without_a_name() -> None:
    assert "client_capabilities" not in parameters(Connection.__init__), "Kernel.runner can pass it on now."
    connection = Connection(None, protocol_version=MODERN)  # type: ignore[arg-type]
    connection.client_capabilities = ClientCapabilities()
    assert connection.client_params is None, "Kernel.runner"


def test_results_are_stamped_with_who_gave_them(server: MCPServer) -> None:
    low = server.kernel._lowlevel_server
    assert low.server_info_stamp["name"] == "seams", "Kernel.closing"
    assert callable(getattr(ServerRunner, "_stamp_server_info", None)), "Kernel.closing stamps as this does."


# mcp_types


def test_questions_and_answers_have_these_shapes_on_the_wire() -> None:
    form = ElicitRequest(params=ElicitRequestFormParams(message="m", requested_schema={"type": "object"}))
    assert rounds.requests_on_wire({"q": form})["q"]["method"] == "elicitation/create", "StatelessCall.conduct"
    wire = {"q": {"action": "accept", "content": {"a": 1}}, "r": {"roots": []}}
    assert rounds.wire_of(rounds.typed(wire)) == wire, "rounds: answers survive the way to models and back."


def test_a_subscription_is_named_under_this_key() -> None:
    assert SUBSCRIPTION_ID_META_KEY == "io.modelcontextprotocol/subscriptionId", "listening.Listener"


def test_the_modern_era_has_methods_of_its_own() -> None:
    with pytest.raises(KeyError):
        methods.validate_client_request("ping", MODERN, {"_meta": ENVELOPE})
    methods.validate_client_request(modern.LISTEN, MODERN, {"_meta": ENVELOPE, "notifications": {}})


def test_the_sdk_s_own_server_can_still_be_made() -> None:
    with bare_root_logger():
        assert SDKServer("seams", subscriptions=False)._lowlevel_server.get_request_handler("server/discover"), (
            "Kernel._add_protocol_handlers replaces it."
        )
