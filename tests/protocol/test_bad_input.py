"""What no client should send: each is a clear JSON-RPC error with the right status, and the session goes on."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from tests.protocol.client import Client, Response, Session, case, initialize_params

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def assert_refused(session: Session, response: Response, status: int, code: int) -> None:
    """Refused as it should be, and neither the session nor the next client minds."""
    assert response.status == status, response.body
    assert response.error["code"] == code
    assert "Traceback" not in response.body.decode()
    assert await session.call("add", a=1, b=2) == {"result": 3}


def with_params(params: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params.encode() + b"}"


# The body


UNSOUND = [
    b"",
    b" ",
    b"{",
    b"not JSON",
    b"{'jsonrpc': '2.0'}",
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping",}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping"} trailing',
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n{"jsonrpc": "2.0", "id": 2, "method": "ping"}',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf" + json.dumps(PING).encode(),
    json.dumps(PING).encode("utf-16"),
    json.dumps(PING).encode("utf-32"),
    b"\x00" * 100,
    b'{"jsonrpc": "2.0", "id": 1, "method": "pi\x00ng"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "id": 2}',
    with_params('{"name": "add", "arguments": {"a": 1, "b": 2, "a": 3}}'),
    with_params('{"name": "add", "arguments": {"a": NaN, "b": 2}}'),
    with_params('{"name": "add", "arguments": {"a": -Infinity, "b": 2}}'),
    with_params('{"name": "add", "arguments": {"a": 1e999, "b": 2}}'),
    with_params('{"name": "add", "arguments": {"a": ' + "9" * 5000 + ', "b": 2}}'),
    with_params('{"name": "add", "arguments": {"a": "\\ud800", "b": 2}}'),
    with_params('{"name": "\\udfff\\ud800"}'),
    with_params("[" * 100 + "]" * 100),
    with_params("[" * 100_000 + "]" * 100_000),
    with_params('{"a":' * 100 + "1" + "}" * 100),
    b"[" * 200_000,
    b'{"a":' * 100_000,
]


async def test_a_body_that_is_no_sound_json_is_a_parse_error(client: Client) -> None:
    session = await client.open()
    for body in UNSOUND:
        with case(body):
            response = await session.post_bytes(body)
            await assert_refused(session, response, 400, -32700)
            assert response.json["id"] is None
            # The same without a session: it is not even looked for.
            assert (await client.request("POST", body)).status == 400


NOT_FOR_ADD = [
    {"name": "add", "arguments": {"a": "one", "b": 2}},
    {"name": "add", "arguments": {"a": 1}},
    {"name": "add", "arguments": {"a": None, "b": None}},
    {"name": "add", "arguments": {"a": 1.5, "b": 2}},
    {"name": "add", "arguments": {"a": [1], "b": {"c": 2}}},
]


async def test_arguments_that_a_tool_does_not_take_are_for_the_model_to_correct(client: Client) -> None:
    session = await client.open()
    for params in NOT_FOR_ADD:
        with case(params):
            result = (await session.request("tools/call", params)).result
            assert result["isError"]
            assert "add" in result["content"][0]["text"]
            assert await session.call("add", a=1, b=2) == {"result": 3}


WRONG_TYPES = [
    ("tools/call", {"name": 5}),
    ("tools/call", {"name": None}),
    ("tools/call", {"name": "add", "arguments": "text"}),
    ("tools/call", {"name": "add", "arguments": [1, 2]}),
    ("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}, "_meta": "text"}),
    ("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}, "_meta": {"progressToken": {}}}),
    ("ping", {"_meta": 5}),
    ("tools/list", {"cursor": 5}),
    ("tools/list", {"cursor": {"a": 1}}),
    ("prompts/get", {"name": ["greet"]}),
    ("prompts/get", {"name": "greet", "arguments": {"name": 5}}),
    ("resources/read", {}),
    ("resources/read", {"uri": 5}),
    ("resources/read", {"uri": None}),
    ("logging/setLevel", {}),
    ("logging/setLevel", {"level": 5}),
    ("completion/complete", {}),
    ("completion/complete", {"ref": "text", "argument": "text"}),
    ("completion/complete", {"ref": {"type": "ref/nothing"}, "argument": {"name": "a", "value": ""}}),
]


async def test_params_of_the_wrong_type_are_invalid_params(client: Client) -> None:
    session = await client.open()
    for method, params in WRONG_TYPES:
        with case(method):
            await assert_refused(session, await session.request(method, params), 200, -32602)


ODD_IDS = ["x" * 100_000, 10**4000, "\u0000", "🦊"]


async def test_an_odd_id_comes_back_as_it_was(client: Client) -> None:
    session = await client.open()
    for id in ODD_IDS:
        with case(id):
            response = await session.post({"jsonrpc": "2.0", "id": id, "method": "ping"})
            assert response.json == {"jsonrpc": "2.0", "id": id, "result": {}}


@pytest.mark.parametrize("number", [10**4000, -(10**18), 2**63], ids=lambda number: f"{number.bit_length()} bits")
async def test_a_huge_number_that_a_tool_takes_is_no_trouble(client: Client, number: int) -> None:
    session = await client.open()
    result = await session.call_tool("add", a=number, b=1)
    assert result.get("isError") or result["structuredContent"] == {"result": number + 1}
    assert await session.call("add", a=1, b=2) == {"result": 3}


async def test_extra_members_and_arguments_are_let_be(client: Client) -> None:
    session = await client.open()
    message = session.tool("add", a=1, b=2, c=3) | {"trace": "abc", "jsonrpc ": "1.0"}
    assert (await session.post(message)).result["structuredContent"] == {"result": 3}


async def test_keys_are_told_apart_by_case(client: Client) -> None:
    session = await client.open()
    response = await session.post({"jsonrpc": "2.0", "id": 1, "Method": "ping"})
    await assert_refused(session, response, 200, -32600)


@pytest.mark.parametrize("kind", ["nan", "surrogate", "nul"])
async def test_what_a_tool_returns_and_json_can_hardly_say_is_no_500(
    client: Client, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    message = session.tool("odd", kind=kind)
    response = await session.post(message)
    assert response.status == 200
    assert response.json["id"] == message["id"]
    if kind == "nul":
        assert response.result["structuredContent"] == {"value": "a\x00b"}
    assert await session.call("add", a=1, b=2) == {"result": 3}


# Its size


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
async def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_not(
    client: Client, settings: Settings, pieces: int, declared: bool
) -> None:
    settings.MCP_DJANGO_MAX_BODY_BYTES = 3000
    session = await client.open()
    for size, status in ((3000, 200), (3001, 413), (300_000, 413)):
        body = json.dumps(PING).encode().ljust(size)
        step = -(-size // pieces)
        chunks = [body[start : start + step] for start in range(0, size, step)]
        response = await session.post_bytes(chunks, {"Content-Length": str(size)} if declared else {})
        assert response.status == status
        if status == 413:
            assert response.error["code"] == -32600
            assert "MAX_BODY_BYTES" in response.error["message"]
    assert (await session.request("ping")).result == {}


async def test_django_s_own_limit_for_forms_does_not_hold_here(client: Client, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    session = await client.open()
    assert (await session.post_bytes(json.dumps(PING).encode().ljust(100_000))).result == {}


BAD_LENGTHS = ["-1", "ten", "1e3", "0x10", "²", "1" * 400]


async def test_a_content_length_that_is_no_sensible_number_is_refused(client: Client) -> None:
    session = await client.open()
    for length in BAD_LENGTHS:
        with case(length):
            response = await session.post_bytes(json.dumps(PING).encode(), {"Content-Length": length})
            assert response.status in (400, 413)
            assert response.error["code"] == -32600
            assert (await session.request("ping")).result == {}


# Its type


NOT_JSON = [
    None,
    "",
    "text/plain",
    "text/plain; charset=utf-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "application/json-rpc",
    "text/json, application/json",
    "application/json; charset=utf-16",
    "x" * 10_000,
]


async def test_a_body_that_does_not_say_json_is_415(client: Client) -> None:
    session = await client.open()
    for content_type in NOT_JSON:
        with case(content_type):
            response = await session.post(PING, {"Content-Type": content_type})
            await assert_refused(session, response, 415, -32600)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
async def test_json_may_be_said_in_several_ways(client: Client, content_type: str) -> None:
    session = await client.open()
    assert (await session.post(PING, {"Content-Type": content_type})).result == {}


HALF_ACCEPTED = [
    "",
    "application/json",
    "text/event-stream",
    "text/html",
    "application/json;q=0, text/event-stream",
    "application/json, text/event-stream;q=0.000",
    "garbage",
]


async def test_a_client_that_takes_only_half_of_what_may_come_is_406(client: Client) -> None:
    session = await client.open()
    for accept in HALF_ACCEPTED:
        with case(accept):
            await assert_refused(session, await session.post(PING, {"Accept": accept}), 406, -32600)


ACCEPTED = [
    None,
    "*/*",
    "application/*, text/*",
    "text/event-stream;q=0.5 , Application/JSON",
    "text/html, application/json, text/event-stream",
]


async def test_both_may_be_accepted_in_several_ways(client: Client) -> None:
    session = await client.open()
    for accept in ACCEPTED:
        with case(accept):
            assert (await session.post(PING, {"Accept": accept})).result == {}


# Where it comes from


FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    "",
    "http://testserver:8000",
    "https://testserver",
    "http://testserver.evil.example",
    "http://testserver@evil.example",
    "http://[::1",
    "http://127.0.0.1",
    "file://",
]


async def test_a_foreign_origin_is_403_whatever_the_method(client: Client) -> None:
    session = await client.open()
    for origin in FOREIGN_ORIGINS:
        with case(origin):
            headers = {"Origin": origin}
            for response in (
                await session.post(PING, headers),
                await client.handshake(headers=headers),
                await client.request("GET", session=session.id, headers=headers),
                await client.request("OPTIONS", headers=headers),
                await session.delete(headers),
            ):
                await assert_refused(session, response, 403, -32600)
                assert response.header("access-control-allow-origin") is None
                assert response.header("mcp-session-id") is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://testserver", "testserver"),
        ("http://localhost:8000", "localhost:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://app.example", "testserver"),
        ("https://deep.sub.example", "testserver"),
    ],
)
async def test_pages_of_the_site_itself_and_those_that_it_trusts_may_call(
    client: Client, settings: Settings, origin: str, host: str
) -> None:
    settings.MCP_DJANGO_ALLOWED_ORIGINS = ["https://app.example"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://*.sub.example"]
    response = await client.handshake(headers={"Origin": origin, "Host": host})
    assert response.status == 200
    assert response.header("access-control-allow-origin") == origin


async def test_two_origins_are_as_good_as_a_foreign_one(client: Client) -> None:
    session = await client.open()
    response = await session.post(PING, {"Origin": ["http://testserver", "http://testserver"]})
    await assert_refused(session, response, 403, -32600)


FOREIGN_HOSTS = ["evil.example", "testserver.evil.example", "test server", "", "testserver:port"]


async def test_a_foreign_host_is_400(client: Client, entry: str) -> None:
    session = await client.open()
    for host in FOREIGN_HOSTS:
        with case(host):
            for response in (
                await session.post(PING, {"Host": host}),
                await client.handshake(headers={"Host": host}),
                await session.delete({"Host": host}),
            ):
                assert response.header("mcp-session-id") is None
                # Under the view, the project's middleware may be first to say so, in Django's own words.
                if entry == "native":
                    await assert_refused(session, response, 400, -32600)
                assert response.status == 400
            assert (await session.request("ping")).result == {}


# Its headers


LARGE_HEADERS = ["X-Anything", "Mcp-Session-Id", "MCP-Protocol-Version", "Accept", "Authorization"]


async def test_a_header_of_100_kb_is_431_and_harms_nothing(client: Client) -> None:
    session = await client.open()
    for name in LARGE_HEADERS:
        with case(name):
            await assert_refused(session, await session.post(PING, {name: "x" * 100_000}), 431, -32600)


async def test_a_header_of_50_kb_is_like_any_other(client: Client) -> None:
    session = await client.open()
    expected = {"Mcp-Session-Id": 404, "MCP-Protocol-Version": 400, "Accept": 406, "X-Anything": 200}
    for name, status in expected.items():
        with case(name):
            assert (await session.post(PING, {name: "x" * 50_000})).status == status
            assert (await session.request("ping")).result == {}


async def test_many_headers_harm_nothing(client: Client) -> None:
    session = await client.open()
    assert (await session.post(PING, {f"X-Header-{number}": "x" for number in range(2000)})).result == {}


QUERIES = [b"a=1&b=2", b"\xff\xfe", b"%ff", b"sessionid=1"]


async def test_a_query_string_harms_nothing(client: Client) -> None:
    session = await client.open()
    for query in QUERIES:
        with case(query):
            body = json.dumps(session.tool("facts")).encode()
            response = await client.request("POST", body, session=session.id, query=query)
            assert response.status in (200, 400)
            response = await client.request(
                "POST", body, session=session.id, query=query, headers={"Origin": "http://testserver"}
            )
            assert response.status in (200, 400)


# Resources: URIs are input too


STRANGE_URIS = [
    "",
    "no scheme",
    "test://books/",
    "test://books/a/b",
    "test://books/" + "a" * 100_000,
    "test://books/" + "%2e%2e%2f" * 1000,
    "test://" + "books/" * 20_000,
    "file:///etc/passwd",
    "http://[::1",
    "test://books/\u0000",
    "javascript:alert(1)",
]


async def test_a_strange_uri_is_answered_at_once_and_without_a_500(client: Client) -> None:
    session = await client.open()
    for uri in STRANGE_URIS:
        with case(uri):
            message = client.message("resources/read", {"uri": uri})
            response = await session.begin(message).response(within=5.0)
            assert response.status == 200
            if "error" in response.json:
                assert response.error["code"] in (-32002, -32602)
            else:
                assert response.result["contents"][0]["text"].startswith("book ")
            assert (await session.request("ping")).result == {}


async def test_bad_input_is_not_logged_as_an_error_of_ours(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    session = await client.open()
    caplog.clear()
    for body in (b"{", b"[" * 100_000, b'{"a":1,"a":2}', b"5"):
        await session.post_bytes(body)
    await session.request("tools/call", {"name": 5})
    await session.request("tools/call", {"name": "no such tool"})
    await session.request("prompts/get", {"name": "greet"})
    await client.post(client.message("initialize", initialize_params(version=5)))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
