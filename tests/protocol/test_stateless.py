"""The stateless era: one request, one answer, and nothing left of it anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)

from mcp_django import modern, replies, shutdown
from mcp_django.asgi import Application
from mcp_django.models import Event, Process, Session, Stream
from tests.protocol.client import LATEST, Client, case, progress_of, text_of
from tests.protocol.stage import Stage, until
from tests.protocol.stateless import MODERN, Stateless, with_progress
from tests.unit.waiting import in_thread

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture
def one(client: Client) -> Stateless:
    """An anonymous client of the main server."""
    return Stateless(client)


@pytest.fixture
def asker(application: Application) -> Stateless:
    return Stateless(Client(application, "/asking/mcp"))


# Answers


async def test_a_call_is_answered_with_its_result_and_who_gave_it(one: Stateless) -> None:
    response = await one.post(one.tool("add", {"a": 2, "b": 3}))
    assert response.result["structuredContent"] == {"result": 5}
    assert response.result["resultType"] == "complete"
    assert response.result["_meta"][SERVER_INFO_META_KEY]["name"] == "protocol"
    assert response.header("mcp-session-id") is None


async def test_nothing_is_written_and_nothing_is_asked_of_the_database(
    one: Stateless, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden() -> Any:
        raise AssertionError("The stateless era knows no sessions.")

    for module in ("endpoint.legacy", "listening"):
        monkeypatch.setattr(f"mcp_django.{module}.sessions", forbidden)
    assert await one.call("add", a=2, b=3) == {"result": 5}
    stream = await one.stream(with_progress(one.tool("talk")))
    assert (await stream.rest())[-1]["result"]["structuredContent"] == {"value": "done"}
    for model in (Session, Stream, Event, Process):
        assert not await model._default_manager.aexists()


async def test_discover_says_what_there_is_and_in_which_versions(one: Stateless) -> None:
    result = (await one.request("server/discover")).result
    assert result["supportedVersions"] == [MODERN]
    assert result["instructions"] == "Call what you like."
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert result["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
    assert (result["ttlMs"], result["cacheScope"]) == (0, "public")


async def test_a_server_without_anything_declares_nothing(application: Application) -> None:
    result = (await Stateless(Client(application, "/empty/mcp")).request("server/discover")).result
    assert result["capabilities"] == {"logging": {}}


LISTS = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]


async def test_lists_are_what_sessions_are_shown_with_how_long_they_keep(client: Client, one: Stateless) -> None:
    session = await client.open()
    for method in LISTS:
        with case(method):
            result = (await one.request(method)).result
            assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "public", "complete")
            shown = (await session.request(method)).result
            key = next(key for key, value in shown.items() if isinstance(value, list))
            assert result[key] == shown[key]


async def test_a_server_says_how_long_its_lists_and_what_is_read_keep(application: Application) -> None:
    one = Stateless(Client(application, "/cached/mcp"))
    for method in [*LISTS, "server/discover"]:
        with case(method):
            result = (await one.request(method)).result
            assert (result["ttlMs"], result["cacheScope"]) == (300_000, "public")
    for uri, milliseconds in [("cached://day", 86_400_000), ("cached://word", 1000), ("cached://never", 0)]:
        with case(uri):
            result = (await one.request("resources/read", {"uri": uri})).result
            assert (result["ttlMs"], result["cacheScope"]) == (milliseconds, "private")


async def test_an_extension_is_declared_and_its_tools_run_like_others_in_both_eras(
    application: Application, stage: Stage
) -> None:
    client = Client(application, "/cached/mcp")
    able = {"extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}}
    discovered = (await Stateless(client).request("server/discover")).result
    assert discovered["capabilities"]["extensions"] == {"io.modelcontextprotocol/ui": {}}
    assert text_of(await Stateless(client).call_tool("clock")) == "noon"
    assert text_of(await Stateless(client, able).call_tool("clock")) == "a face"
    session = await client.open(capabilities=able)
    assert text_of(await session.call_tool("clock")) == "a face"
    assert all(name.startswith("mcp-django-call") for name in stage.details("thread"))
    listed = (await Stateless(client).request("tools/list")).result["tools"]
    assert listed[0]["_meta"]["ui"] == {"resourceUri": "ui://clock/app.html"}
    read = (await Stateless(client).request("resources/read", {"uri": "ui://clock/app.html"})).result
    assert read["contents"][0]["mimeType"] == "text/html;profile=mcp-app"


async def test_lists_come_in_pages(application: Application, settings: Any) -> None:
    settings.MCP_DJANGO_PAGE_SIZE = 2
    one = Stateless(Client(application, "/long/mcp"))
    first = (await one.request("tools/list")).result
    second = (await one.request("tools/list", {"cursor": first["nextCursor"]})).result
    assert not {tool["name"] for tool in first["tools"]} & {tool["name"] for tool in second["tools"]}
    assert (await one.request("tools/list", {"cursor": "nonsense"})).status == 400


async def test_a_client_need_not_say_its_name(asker: Stateless) -> None:
    message = asker.tool("whoami")
    del message["params"]["_meta"][CLIENT_INFO_META_KEY]
    assert (await asker.post(message)).result["structuredContent"] == {"value": ["", None]}


async def test_a_session_id_that_comes_along_means_nothing(client: Client, one: Stateless) -> None:
    session = await client.open()
    message = one.tool("add", {"a": 1, "b": 1})
    for id in (session.id, "nonsense"):
        response = await client.post(message, session=id, headers=one.headers(message))
        assert response.result["structuredContent"] == {"result": 2}


async def test_who_calls_is_known_from_the_request_alone(application: Application) -> None:
    for name in ("alice", "bob"):
        await in_thread(User.objects.create, username=name)
    for name in ("alice", "bob", "alice"):
        one = Stateless(Client(application, "/asking/mcp", token=f"token-of-{name}"))
        assert await one.call("whoami") == {"value": [name, "a stateless client"]}


# Errors


FAULTS: list[tuple[str, dict[str, Any], int, int]] = [
    ("ping", {}, 404, -32601),
    ("initialize", {}, 404, -32601),
    ("logging/setLevel", {"level": "info"}, 404, -32601),
    ("resources/subscribe", {"uri": "test://users"}, 404, -32601),
    ("resources/unsubscribe", {"uri": "test://users"}, 404, -32601),
    ("no/such/method", {}, 404, -32601),
    ("tools/call", {"name": "no_such_tool"}, 400, -32602),
    ("tools/call", {}, 400, -32602),
    ("prompts/get", {"name": "no_such_prompt"}, 400, -32602),
    ("resources/read", {"uri": "test://no/such"}, 400, -32602),
    ("subscriptions/listen", {}, 400, -32602),
]


async def test_the_code_of_an_error_decides_the_status(one: Stateless) -> None:
    for method, params, status, code in FAULTS:
        with case((method, params)):
            message = one.message(method, params)
            response = await one.post(message)
            assert (response.status, response.error["code"]) == (status, code)
            assert response.json["id"] == message["id"]


async def test_an_error_of_a_tool_is_a_result(one: Stateless) -> None:
    response = await one.post(one.tool("add", {"a": "x", "b": 1}))
    assert response.status == 200
    assert response.result["isError"]


async def test_an_unknown_resource_is_named(one: Stateless) -> None:
    response = await one.request("resources/read", {"uri": "test://no/such"})
    assert response.error["data"] == {"uri": "test://no/such"}


ENVELOPES: list[tuple[dict[str, Any] | None, int]] = [
    (None, -32602),
    ({}, -32602),
    ({PROTOCOL_VERSION_META_KEY: MODERN}, -32602),
    ({CLIENT_CAPABILITIES_META_KEY: {}}, -32602),
    ({PROTOCOL_VERSION_META_KEY: 7, CLIENT_CAPABILITIES_META_KEY: {}}, -32020),
    ({PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: "none"}, -32602),
    ({PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: {}, CLIENT_INFO_META_KEY: "me"}, -32602),
    ({PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: {}, LOG_LEVEL_META_KEY: "loud"}, -32602),
]


async def test_an_envelope_that_is_not_whole_is_refused(one: Stateless) -> None:
    for meta, code in ENVELOPES:
        with case(meta):
            message = one.message("tools/list")
            message["params"] = {} if meta is None else {"_meta": meta}
            response = await one.post(message)
            assert (response.status, response.error["code"]) == (400, code)
            assert response.json["id"] == message["id"]


async def test_only_requests_and_notifications_are_posted(one: Stateless, client: Client) -> None:
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    request = one.message("tools/list")
    broken: list[Any] = [
        [request],
        [],
        {"jsonrpc": "2.0", "id": 7, "result": {}},
        {"jsonrpc": "2.0", "id": 7, "error": {"code": 1, "message": "no"}},
        {"id": 7, "method": "tools/list"},
        {**request, "id": None},
        {**request, "id": 1.5},
        {**request, "params": []},
        7,
    ]
    for value in broken:
        with case(value):
            response = await client.post(value, headers=headers)
            assert (response.status, response.error["code"]) == (400, -32600)
    assert (await client.request("POST", b"{", headers=client.headers(None, headers))).error["code"] == -32700


async def test_notifications_are_taken_and_passed_over(one: Stateless, client: Client) -> None:
    headers = {"MCP-Protocol-Version": MODERN}
    for method in ("notifications/initialized", "notifications/cancelled", "notifications/no/such"):
        response = await client.post({"jsonrpc": "2.0", "method": method, "params": {"requestId": 1}}, headers=headers)
        assert (response.status, response.body) == (202, b"")


async def test_get_and_delete_have_no_meaning_here(client: Client) -> None:
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Session-Id": "whatever"}
    for method in ("GET", "DELETE"):
        response = await client.request(method, headers=client.headers(None, headers))
        assert response.status == 405
        assert "POST" in str(response.header("allow"))


async def test_a_busy_server_says_so_by_a_status_that_clients_try_again(
    one: Stateless, settings: Any, stage: Stage
) -> None:
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 1
    settings.MCP_DJANGO_CALL_QUEUE_TIMEOUT = 0.01
    gate = stage.hold("step 1")
    busy = one.begin(one.tool("steps", {"steps": 1}))
    await gate.reached()
    response = await one.post(one.tool("add", {"a": 1, "b": 1}))
    assert response.status == 503
    assert response.header("retry-after") == "3"
    gate.open()
    assert (await busy.response()).status == 200


# A server that keeps to sessions


async def test_a_server_may_keep_to_sessions_and_tells_which_versions_have_them(application: Application) -> None:
    client = Client(application, "/handshake-only/mcp")
    one = Stateless(client)
    for message in (one.message("server/discover"), one.tool("greet")):
        response = await one.post(message)
        assert (response.status, response.error["code"]) == (400, -32022)
        assert response.error["data"]["requested"] == MODERN
        assert LATEST in response.error["data"]["supported"]
        assert MODERN not in response.error["data"]["supported"]
    response = await client.request("GET", headers=client.headers(None, {"MCP-Protocol-Version": MODERN}))
    assert response.status == 400
    session = await client.open()
    assert await session.call("greet") == {"value": "hello"}


# Without a session


async def test_what_needs_a_session_says_so_to_the_model_and_to_the_developer(asker: Stateless) -> None:
    result = await asker.call_tool("count_in_session")
    assert result["isError"]
    assert "needs a session" in text_of(result)
    assert "mcp_django.Handle" in text_of(result)


@pytest.mark.parametrize("tool", ["count", "acount", "state"])
async def test_a_session_s_state_is_not_there(one: Stateless, tool: str) -> None:
    result = await one.call_tool(tool)
    assert result["isError"]
    assert "needs a session" in text_of(result)


async def test_a_handler_class_has_a_fresh_instance_for_each_request_and_no_hooks(
    asker: Stateless, stage: Stage
) -> None:
    for _ in range(2):
        assert await asker.call("count_here") == {"value": 1}
    assert (await asker.request("prompts/get", {"name": "count_in_prompt"})).status == 200
    assert (await asker.request("resources/read", {"uri": "count://here"})).result["contents"][0]["text"] == "1"
    assert stage.count("on_initialize") == 0


# Streams


async def test_the_first_message_makes_a_stream_without_ids_or_retry(one: Stateless) -> None:
    stream = await one.stream(with_progress(one.tool("talk")))
    messages = await stream.rest()
    assert progress_of(messages) == [1, 2]
    assert messages[-1]["result"]["structuredContent"] == {"value": "done"}
    assert all(frame.id is None and frame.retry is None for frame in stream.frames)
    assert stream.header("cache-control") == "no-cache, no-transform"
    assert stream.header("x-accel-buffering") == "no"


async def test_nothing_is_logged_to_a_client_that_did_not_ask(one: Stateless) -> None:
    response = await one.post(one.tool("talk"))
    assert response.result["structuredContent"] == {"value": "done"}


async def test_log_messages_come_from_the_level_on_that_the_request_asks_for(one: Stateless) -> None:
    for level, expected in (("debug", ["halfway"]), ("info", ["halfway"]), ("warning", [])):
        with case(level):
            message = one.tool("talk")
            message["params"]["_meta"][LOG_LEVEL_META_KEY] = level
            exchange = one.begin(message)
            if expected:
                said = await (await exchange.stream()).rest()
                assert [m["params"]["data"] for m in said if m.get("method") == "notifications/message"] == expected
            else:
                assert (await exchange.response()).status == 200


async def test_a_long_silence_makes_a_stream_that_is_kept_alive(one: Stateless, settings: Any, stage: Stage) -> None:
    settings.MCP_DJANGO_KEEP_ALIVE = 0.05
    gate = stage.hold("step 1")
    stream = await one.stream(one.tool("steps", {"steps": 1}))
    for _ in range(2):
        frame = await stream.frame()
        assert frame is not None
        assert frame.comment == "keep-alive"
    gate.open()
    assert (await stream.message())["result"]["structuredContent"] == {"value": 1}


async def test_an_error_after_the_first_message_ends_the_stream(one: Stateless, stage: Stage) -> None:
    stage.fail("end", RuntimeError("a bug"))
    stream = await one.stream(with_progress(one.tool("steps", {"steps": 1})))
    assert (await stream.rest())[-1]["result"]["isError"]


async def test_a_stream_that_the_client_closes_cancels_its_call(one: Stateless, stage: Stage) -> None:
    gate = stage.hold("step 2")
    stream = await one.stream(with_progress(one.tool("steps", {"steps": 3})))
    await gate.reached()
    await stream.disconnect()
    await until(lambda: not replies.running)
    assert stage.count("end") == 0


async def test_a_client_that_goes_away_before_the_first_message_cancels_its_call(
    one: Stateless, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modern, "WATCH_AFTER", 0.0)
    gate = stage.hold("step 1")
    exchange = one.begin(one.tool("steps", {"steps": 1}))
    await gate.reached()
    exchange.disconnect()
    await until(lambda: not replies.running)
    assert stage.count("end") == 0


async def test_a_client_that_does_not_read_holds_its_tool_up_and_no_memory(one: Stateless, stage: Stage) -> None:
    count, size = 50, 10_000
    message = with_progress(one.tool("steps", {"steps": count, "size": size}))
    exchange = one.begin(message, slow=True)
    stream = await exchange.stream()
    await until(lambda: stage.count("step 5") == 1)
    reply = next(iter(replies.running)).channel
    assert isinstance(reply, replies.Reply)
    await until(lambda: reply._room is not None)
    assert stage.count(f"step {count}") == 0
    assert reply._unsent_size <= replies.MAX_UNSENT
    assert progress_of(await stream.rest()) == list(range(1, count + 1))


async def test_a_stream_that_nobody_begins_to_read_is_given_up(one: Stateless, settings: Any, stage: Stage) -> None:
    """A client may be gone between the moment that it is known what the answer is and its first byte."""
    settings.MCP_DJANGO_KEEP_ALIVE = 0.05
    reply = replies.Reply(streams_allowed=True)
    cancelled: list[str] = []

    class Running:
        def cancel(self, reason: str) -> None:
            cancelled.append(reason)

    reply.call = Running()  # type: ignore[assignment]
    await reply.send({"jsonrpc": "2.0", "method": "notifications/progress"})
    await until(lambda: bool(cancelled))


async def test_polling_does_nothing_where_nothing_can_be_resumed(one: Stateless) -> None:
    response = await one.post(one.tool("poll", {"times": 1}))
    assert response.result["structuredContent"] == {"value": "done"}


async def test_what_changes_is_told_on_no_call_s_stream(one: Stateless) -> None:
    response = await one.post(one.tool("change_lists_as_the_sdk_does"))
    assert response.status == 200


# Shutting down


async def test_a_call_that_does_not_end_in_time_is_answered_with_an_error(
    one: Stateless, stage: Stage, settings: Any
) -> None:
    settings.MCP_DJANGO_SHUTDOWN_GRACE = 0.01
    gate = stage.hold("step 1")
    exchange = one.begin(one.tool("steps", {"steps": 1}))
    await gate.reached()
    await shutdown.end_calls(tuple(replies.running))
    response = await exchange.response()
    assert response.status == 503
    assert "shutting down" in response.error["message"]
    assert response.header("retry-after") == "3"
