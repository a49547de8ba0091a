"""The rules of the wire that real clients break without, by their numbers in the design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import PROTOCOL_VERSION_META_KEY

from tests.protocol.client import Client, case, together
from tests.protocol.entries import ENTRIES, application_of
from tests.protocol.stage import Stage, until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example"


def header_names(value: str | None) -> set[str]:
    return {name.strip().lower() for name in (value or "").split(",")}


# 1: on a valid session, errors are HTTP 200


FAILING = [
    ("no/such/method", {}, -32601),
    ("resources/subscribe", {"uri": "test://no/such/resource"}, -32002),
    ("tools/call", {"name": "no such tool"}, -32602),
    ("tools/call", {}, -32602),
    ("prompts/get", {"name": "no such prompt"}, -32602),
    ("resources/read", {"uri": "test://no/such/resource"}, -32002),
    ("logging/setLevel", {"level": "shout"}, -32602),
    ("tools/list", {"cursor": "nonsense"}, -32602),
    ("completion/complete", {"ref": {"type": "ref/prompt"}}, -32602),
    ("tools/call", {"name": "fail", "arguments": {"how": "mcp"}}, -32050),
    ("prompts/get", {"name": "broken_prompt"}, -32603),
    ("resources/read", {"uri": "test://broken"}, -32603),
    ("initialized", {}, -32601),
    ("", {}, -32601),
]


async def test_rule_1_a_request_that_fails_on_a_valid_session_is_answered_with_http_200(client: Client) -> None:
    session = await client.open()
    for method, params, code in FAILING:
        with case(method):
            message = client.message(method, params)
            response = await session.post(message)
            assert response.status == 200
            assert response.json["id"] == message["id"]
            assert response.error["code"] == code
            assert (await session.request("ping")).result == {}


NO_MESSAGES = [
    {},
    {"jsonrpc": "2.0"},
    {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    {"id": 1, "method": "ping"},
    {"jsonrpc": "2.0", "id": 1, "method": 5},
    {"jsonrpc": "2.0", "id": None, "method": "ping"},
    {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
    {"jsonrpc": "2.0", "id": True, "method": "ping"},
    {"jsonrpc": "2.0", "id": ["a"], "method": "ping"},
    {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1, 2]},
    {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "text"},
    {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
    {"jsonrpc": "2.0", "id": 1, "error": "text"},
    {"jsonrpc": "2.0", "id": {}, "result": {}},
    "ping",
    5,
    None,
    True,
]


async def test_rule_1_what_is_no_message_is_an_invalid_request_with_http_200_on_a_valid_session(client: Client) -> None:
    session = await client.open()
    for message in NO_MESSAGES:
        with case(message):
            response = await session.post(message)
            assert response.status == 200
            assert response.error["code"] == -32600
            assert (await session.request("ping")).result == {}


async def test_rule_1_an_error_carries_the_id_as_it_came_where_it_can_be_read(client: Client) -> None:
    session = await client.open()
    for id in ("seven", "", 7, 0, -1, 2**63, 10**300):
        assert (await session.post({"jsonrpc": "2.0", "id": id, "method": "nope"})).json["id"] == id
        assert (await session.post({"jsonrpc": "2.0", "id": id, "method": 5})).json["id"] == id
    assert (await session.post({"jsonrpc": "2.0", "id": 1.5, "method": "ping"})).json["id"] is None


# 2: a session's calls over a limit are refused with HTTP 200


async def test_rule_2_a_call_over_the_limit_waits_its_turn_and_is_then_refused_with_http_200(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 2
    settings.MCP_DJANGO_CALL_QUEUE_TIMEOUT = 0.05
    session = await client.open()
    gate = stage.hold("here")
    running = [session.begin(session.tool("pause", place="here")) for _ in range(2)]
    await until(lambda: gate.arrivals == 2)
    response = await session.post(session.tool("add", a=1, b=2))
    assert response.status == 200
    assert response.error["code"] == -32003
    gate.open()
    assert [response.status for response in await together(*running)] == [200, 200]
    assert await session.call("add", a=1, b=2) == {"result": 3}


async def test_rule_2_a_call_over_the_limit_is_served_as_soon_as_there_is_room(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 1
    session = await client.open()
    gate = stage.hold("here")
    first = session.begin(session.tool("pause", place="here"))
    await gate.reached()
    waiting = session.begin(session.tool("add", a=1, b=2))
    # Another message goes all the way through while that call waits.
    assert (await session.notify("notifications/initialized")).status == 202
    assert not waiting.task.done()
    gate.open()
    await first.response()
    assert (await waiting.response()).result["structuredContent"] == {"result": 3}


async def test_rule_2_a_failed_cancelled_or_refused_call_gives_its_place_back(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 1
    settings.MCP_DJANGO_CALL_QUEUE_TIMEOUT = 0.05
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool("pause", place="here")
    paused = session.begin(message)
    await gate.reached()
    assert (await session.request("tools/list")).error["code"] == -32003
    await session.cancel(message["id"])
    assert (await paused.response()).error["code"] == -32800
    await session.call_tool("fail", how="plain")
    assert await session.call("add", a=1, b=2) == {"result": 3}


# 3: notifications and answers are 202 with nothing in it


ANSWERS_AND_NOTIFICATIONS: list[dict[str, Any]] = [
    {"method": "notifications/initialized"},
    {"method": "notifications/cancelled", "params": {"requestId": 12345}},
    {"method": "notifications/cancelled", "params": {"requestId": "nobody's", "reason": "none"}},
    {"method": "notifications/cancelled", "params": {"requestId": {"not": "an id"}}},
    {"method": "notifications/cancelled"},
    {"method": "notifications/progress", "params": {"progressToken": 1, "progress": 0.5}},
    {"method": "notifications/progress", "params": {"wrong": "params"}},
    {"method": "notifications/roots/list_changed"},
    {"method": "notifications/of/the/future", "params": {"a": [1]}},
    {"method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}},
    {"id": 99, "result": {"late": True}},
    {"id": "forged", "result": {}},
    {"id": 99, "error": {"code": -1, "message": "No."}},
    {"id": None, "error": {"code": -32700, "message": "I did not understand you."}},
    {"id": 1, "result": None},
]


async def test_rule_3_a_notification_or_an_answer_is_202_with_an_empty_body_and_so_is_the_same_once_more(
    client: Client,
) -> None:
    session = await client.open()
    for message in ANSWERS_AND_NOTIFICATIONS:
        for _ in range(2):
            with case(message):
                response = await session.post({"jsonrpc": "2.0", **message})
                assert (response.status, response.body) == (202, b"")
                assert (await session.request("ping")).result == {}


async def test_rule_3_a_202_promises_no_content_type(client: Client) -> None:
    session = await client.open()
    assert (await session.notify("notifications/roots/list_changed")).header("content-type") is None


# 5: the version header


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_rule_5_another_known_version_in_the_header_changes_nothing(client: Client, version: str) -> None:
    session = await client.open("2025-06-18")
    response = await session.post(session.tool("facts"), {"MCP-Protocol-Version": version})
    assert response.result["structuredContent"]["version"] == "2025-06-18"


async def test_rule_5_a_request_without_the_header_speaks_the_session_s_version(client: Client) -> None:
    session = await client.open("2025-06-18")
    response = await session.post(session.tool("facts"), {"MCP-Protocol-Version": None})
    assert response.result["structuredContent"]["version"] == "2025-06-18"
    assert (await session.delete({"MCP-Protocol-Version": None})).status == 204


UNSUPPORTED = ["2026-07-27", "1999-12-31", "latest", "", "2025-11-25, 2025-11-25", "ü" * 200]


async def test_rule_5_an_unsupported_version_in_the_header_is_400_and_says_what_is_supported(client: Client) -> None:
    session = await client.open()
    for version in UNSUPPORTED:
        with case(version):
            headers = {"MCP-Protocol-Version": version}
            for response in (await session.post(client.message("ping"), headers), await session.delete(headers)):
                assert response.status == 400
                assert response.error["code"] == -32022
                assert "2025-11-25" in response.error["data"]["supported"]
            assert (await session.request("ping")).result == {}


async def test_rule_5_the_header_of_2026_on_a_session_asks_for_the_envelope(client: Client) -> None:
    session = await client.open()
    response = await session.post(client.message("ping"), {"MCP-Protocol-Version": "2026-07-28"})
    assert response.status == 400
    assert response.error["code"] == -32602
    assert "params._meta" in response.error["message"]


async def test_rule_5_the_envelope_of_2026_on_a_session_is_400(client: Client) -> None:
    session = await client.open()
    params = {"_meta": {PROTOCOL_VERSION_META_KEY: "2026-07-28"}}
    response = await session.request("tools/list", params)
    assert response.status == 400
    # Half an envelope: it does not say what the client can do.
    assert response.error["code"] == -32602


# 6: unknown tools, completions


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_rule_6_an_unknown_tool_is_one_error_in_every_revision(client: Client, version: str) -> None:
    session = await client.open(version)
    error = (await session.request("tools/call", {"name": "no_such_tool", "arguments": {}})).error
    assert error["code"] == -32602
    assert "no_such_tool" in error["message"]


# 8: browsers


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Mcp-Session-Id": "nonsense"}])
async def test_rule_8_a_preflight_is_answered_before_authentication(
    client: Client, stage: Stage, settings: Settings, headers: dict[str, str]
) -> None:
    settings.MCP_DJANGO_ALLOWED_ORIGINS = [ORIGIN]
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Content-Type": None, **headers}
    response = await client.request("OPTIONS", headers=asked)
    assert (response.status, response.body) == (204, b"")
    assert response.header("access-control-allow-origin") == ORIGIN
    assert header_names(response.header("access-control-allow-methods")) >= {"post", "get", "delete"}
    assert header_names(response.header("access-control-allow-headers")) >= {
        "accept",
        "authorization",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
    }
    assert "authenticate" not in stage.names()


@pytest.mark.parametrize("status", [200, 202, 204, 400, 404, 405, 406, 413, 415])
async def test_rule_8_every_answer_to_an_allowed_page_can_be_read_by_it(
    client: Client, settings: Settings, status: int
) -> None:
    settings.MCP_DJANGO_ALLOWED_ORIGINS = [ORIGIN]
    settings.MCP_DJANGO_MAX_BODY_BYTES = 1000
    session = await client.open()
    page = {"Origin": ORIGIN}
    ping = client.message("ping")
    match status:
        case 200:
            response = await session.post(ping, page)
        case 202:
            response = await session.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, page)
        case 204:
            response = await session.delete(page)
        case 400:
            response = await client.post(ping, headers=page)
        case 404:
            response = await client.post(ping, session="nobody's", headers=page)
        case 405:
            response = await client.request("PUT", session=session.id, headers=page)
        case 406:
            response = await session.post(ping, page | {"Accept": "text/html"})
        case 413:
            response = await session.post_bytes(b" " * 2000, page)
        case _:
            response = await session.post(ping, page | {"Content-Type": "text/plain"})
    assert response.status == status
    assert response.header("access-control-allow-origin") == ORIGIN
    assert header_names(response.header("access-control-expose-headers")) >= {"mcp-session-id", "www-authenticate"}
    assert "origin" in header_names(response.header("vary"))


async def test_rule_8_a_page_can_read_its_new_session_s_id(client: Client, settings: Settings) -> None:
    settings.CSRF_TRUSTED_ORIGINS = [ORIGIN]
    response = await client.handshake(headers={"Origin": ORIGIN})
    assert response.header("mcp-session-id")
    assert "mcp-session-id" in header_names(response.header("access-control-expose-headers"))


async def test_rule_8_a_request_that_no_page_sent_gets_no_cors_headers(client: Client) -> None:
    assert (await client.handshake()).header("access-control-allow-origin") is None


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "MCP-Protocol-Version"])
async def test_rule_8_a_header_that_came_twice_is_400_even_with_the_same_value_in_both(
    client: Client, name: str
) -> None:
    session = await client.open()
    twice = [session.id] * 2 if name == "Mcp-Session-Id" else [session.version] * 2
    for response in (await session.post(client.message("ping"), {name: twice}), await session.delete({name: twice})):
        assert response.status == 400
        assert name.lower() in response.error["message"].lower()
    assert (await session.request("ping")).result == {}


# Other methods


NOT_SERVED = ["PUT", "PATCH", "TRACE", "BREW"]


async def test_a_method_that_is_not_served_is_405_and_says_which_are(client: Client) -> None:
    session = await client.open()
    for method in NOT_SERVED:
        with case(method):
            for response in (
                await client.request(method),
                await client.request(method, session=session.id, headers={"Accept": "text/event-stream"}),
            ):
                assert response.status == 405
                assert header_names(response.header("allow")) == {"get", "post", "delete", "options"}
                assert response.error["code"] == -32600


async def test_both_entries_answer_with_the_same_bytes_and_the_same_headers_of_ours() -> None:
    native, view = [await everything_once(Client(application_of(entry))) for entry in ENTRIES]
    assert native == view


async def everything_once(client: Client) -> list[tuple[int, bytes, list[tuple[str, str]]]]:
    session = await client.open()
    answers = [
        await session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        await session.notify("notifications/initialized"),
        await session.post({"jsonrpc": "2.0", "id": 1, "method": "nope"}),
        await session.post_bytes(b"not JSON"),
        await session.post_bytes(b"{}", {"Content-Length": str(10**9)}),
        await client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, session="nobody's"),
        await client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers={"Origin": "https://evil.example"}),
        await client.request("GET"),
        await client.request("OPTIONS"),
        await session.delete(),
    ]
    return [(answer.status, answer.body, ours(answer.headers)) for answer in answers]


MIDDLEWARE_HEADERS = {
    "cross-origin-opener-policy",
    "referrer-policy",
    "vary",
    "x-content-type-options",
    "x-frame-options",
}


def ours(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in MIDDLEWARE_HEADERS)
