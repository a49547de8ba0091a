"""The smuggling table: whatever a request's headers and its body, or two headers, say differently is refused.

A gateway in front of a server goes by the headers; a server that went by the body would do what the gateway has not
seen.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from mcp_types import PROTOCOL_VERSION_META_KEY

from mcp_django.asgi import Application
from tests.protocol.client import Client, case
from tests.protocol.stage import Stage
from tests.protocol.stateless import MODERN, Stateless

pytestmark = pytest.mark.anyio


@pytest.fixture
def one(application: Application) -> Stateless:
    return Stateless(Client(application, "/asking/mcp"))


def sentinel(text: str) -> str:
    """A value as a client sends it that does not fit into a header."""
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


Value = str | Sequence[str] | None

STANDARD: list[tuple[str, dict[str, Any], dict[str, Value]]] = [
    # method, params, headers
    ("tools/list", {}, {"MCP-Protocol-Version": None}),
    ("tools/list", {}, {"MCP-Protocol-Version": "2025-11-25"}),
    ("tools/list", {}, {"MCP-Protocol-Version": "v999.0.0"}),
    ("tools/list", {}, {"MCP-Protocol-Version": [MODERN, MODERN]}),
    ("tools/list", {}, {"MCP-Protocol-Version": [MODERN, "2025-11-25"]}),
    ("tools/list", {}, {"Mcp-Method": None}),
    ("tools/list", {}, {"Mcp-Method": ""}),
    ("tools/list", {}, {"Mcp-Method": "prompts/list"}),
    ("tools/list", {}, {"Mcp-Method": "TOOLS/LIST"}),
    ("tools/list", {}, {"Mcp-Method": "tools/list, tools/list"}),
    ("tools/list", {}, {"Mcp-Method": ["tools/list", "tools/list"]}),
    ("tools/list", {}, {"Mcp-Method": ["tools/list", "tools/call"]}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": None}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": ""}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": "ask_name"}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": "Mirrored"}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": ["mirrored", "mirrored"]}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": sentinel("ask_name")}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Name": "=?base64?!!!?="}),
    ("tools/call", {"name": "mirrored"}, {"Mcp-Method": "tools/list"}),
    ("prompts/get", {"name": "ask_in_prompt"}, {"Mcp-Name": "count_in_prompt"}),
    ("resources/read", {"uri": "count://here"}, {"Mcp-Name": "count://there"}),
    ("resources/read", {"uri": "count://here"}, {"Mcp-Name": None}),
]

MIRRORED: list[tuple[dict[str, Any], dict[str, Value]]] = [
    # arguments, headers
    ({"region": "Hello"}, {}),
    ({"region": "Hello"}, {"Mcp-Param-Region": "Bye"}),
    ({"region": "Hello"}, {"Mcp-Param-Region": "hello"}),
    ({"region": "Hello"}, {"Mcp-Param-Region": ["Hello", "Hello"]}),
    ({"region": "a, b"}, {"Mcp-Param-Region": ["a", "b"]}),
    ({"region": "Hello"}, {"Mcp-Param-Region": "=?base64?SGVsbG8?="}),
    ({"region": "Hello"}, {"Mcp-Param-Region": "=?base64?SGVs!!!bG8=?="}),
    ({"region": "Hello"}, {"Mcp-Param-Region": sentinel("Bye")}),
    ({}, {"Mcp-Param-Region": "Hello"}),
    ({"region": None}, {"Mcp-Param-Region": "Hello"}),
    ({"count": 42}, {}),
    ({"count": 42}, {"Mcp-Param-Count": "43"}),
    ({"count": 42}, {"Mcp-Param-Count": "4.2e1"}),
    ({"count": 42}, {"Mcp-Param-Count": "42.5"}),
    ({"sure": True}, {"Mcp-Param-Sure": "false"}),
    ({"sure": True}, {"Mcp-Param-Sure": "True"}),
    ({"sure": True}, {"Mcp-Param-Sure": "1"}),
    ({"region": ["Hello"]}, {"Mcp-Param-Region": "Hello"}),
]

AGREEING: list[tuple[dict[str, Any], dict[str, Value], list[Any]]] = [
    # arguments, headers, what the tool is given
    ({}, {}, ["", 0, False, ""]),
    ({"plain": "x"}, {"Mcp-Param-Plain": "y"}, ["", 0, False, "x"]),
    ({"region": "Hello"}, {"mcp-param-region": "Hello"}, ["Hello", 0, False, ""]),
    ({"region": "Hello"}, {"Mcp-Param-Region": "=?base64?SGVsbG8=?="}, ["Hello", 0, False, ""]),
    ({"region": "SGVsbG8="}, {"Mcp-Param-Region": "SGVsbG8="}, ["SGVsbG8=", 0, False, ""]),
    ({"region": "=?base64?SGVsbG8="}, {"Mcp-Param-Region": "=?base64?SGVsbG8="}, ["=?base64?SGVsbG8=", 0, False, ""]),
    ({"region": "köln"}, {"Mcp-Param-Region": sentinel("köln")}, ["köln", 0, False, ""]),
    ({"count": 42, "sure": True}, {"Mcp-Param-Count": "42", "Mcp-Param-Sure": "true"}, ["", 42, True, ""]),
    ({"count": 42}, {"Mcp-Param-Count": "42.0"}, ["", 42, False, ""]),
    ({"region": "Hello"}, {"Mcp-Param-Region": "Hello", "Mcp-Name": sentinel("mirrored")}, ["Hello", 0, False, ""]),
]


async def test_a_header_that_contradicts_the_body_is_refused_by_code_and_status(one: Stateless) -> None:
    for method, params, headers in STANDARD:
        with case((method, headers)):
            message = one.message(method, params)
            response = await one.post(message, headers)
            assert response.status == 400
            assert response.error["code"] == -32020
            assert response.json["id"] == message["id"]


async def test_a_header_that_contradicts_an_argument_is_refused_by_code_and_status(one: Stateless) -> None:
    for arguments, headers in MIRRORED:
        with case((arguments, headers)):
            message = one.tool("mirrored", arguments)
            response = await one.post(message, headers)
            assert response.status == 400
            assert response.error["code"] == -32020
            assert response.json["id"] == message["id"]


async def test_headers_that_agree_with_the_body_are_no_hindrance(one: Stateless) -> None:
    for arguments, headers, expected in AGREEING:
        with case((arguments, headers)):
            response = await one.post(one.tool("mirrored", arguments), headers)
            assert response.result["structuredContent"] == {"value": expected}


async def test_a_body_of_another_version_than_its_header_is_refused_before_anything_else(one: Stateless) -> None:
    message = one.message("tools/list", None, **{PROTOCOL_VERSION_META_KEY: "v999.0.0"})
    response = await one.post(message)
    assert (response.status, response.error["code"]) == (400, -32020)
    response = await one.post(message, {"MCP-Protocol-Version": "v999.0.0"})
    assert (response.status, response.error["code"]) == (400, -32022)
    assert response.error["data"] == {"supported": [MODERN], "requested": "v999.0.0"}


async def test_a_hidden_tool_is_not_betrayed_by_its_headers(one: Stateless, stage: Stage) -> None:
    headers = {"Mcp-Param-Region": "elsewhere"}
    hidden = await one.post(one.tool("hidden_mirrored", {"region": "here"}), headers)
    unknown = await one.post(one.tool("no_such_tool", {"region": "here"}), headers)
    assert hidden.status == unknown.status == 400
    assert hidden.error["code"] == unknown.error["code"] == -32602
    assert hidden.error["message"].replace("hidden_mirrored", "no_such_tool") == unknown.error["message"]
    stage.record("hidden is shown")
    shown = await one.post(one.tool("hidden_mirrored", {"region": "here"}), headers)
    assert shown.error["code"] == -32020


async def test_sessions_know_no_mirrored_headers(application: Application) -> None:
    session = await Client(application, "/asking/mcp").open()
    response = await session.post(session.tool("mirrored", region="here"), {"Mcp-Param-Region": "elsewhere"})
    assert response.result["structuredContent"]["value"][0] == "here"
