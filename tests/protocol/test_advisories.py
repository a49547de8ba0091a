"""What went wrong in other MCP servers, each as a test by its number in the survey of peers (section 5)."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone

import mcp_django
from mcp_django import patrol
from mcp_django.asgi import Application
from mcp_django.models import Session as Row
from mcp_django.models import digest_of
from mcp_django.native import MCPApplication
from tests.protocol.auth_servers import Grant, granted
from tests.protocol.client import Client, Response, Session, case, together
from tests.protocol.entries import native_by_default
from tests.protocol.layers import Broker
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until
from tests.protocol.stateless import Stateless

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

entry = native_by_default

ASKABLE: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
UNKNOWN = "nobody-has-this-id-nobody-has-this-id-12345"


def told(response: Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All that a caller can learn from a response."""
    return response.status, response.body, sorted(response.headers)


async def all_ways(session: Session, event_id: str | None = None) -> list[Response]:
    """What a session's id can be used for."""
    return [
        await session.request("ping"),
        await session.get().response(),
        await session.get(event_id or "1-1").response(),
        await session.delete(),
    ]


async def test_01_answers_reach_the_client_that_asked_and_no_other(application: Application) -> None:
    clients = [Client(application) for _ in range(25)]
    sessions = [await client.open() for client in clients]
    exchanges, expected = [], []
    for number, session in enumerate(sessions):
        for tool in ("add", "multiply"):
            message = session.tool(tool, a=number + 2, b=1000) | {"id": 7}
            stateless = Stateless(session.client).tool(tool, {"a": number + 2, "b": 2000}) | {"id": 7}
            exchanges += [session.begin(message), Stateless(session.client).begin(stateless)]
            expected += [
                number + 1002 if tool == "add" else (number + 2) * 1000,
                number + 2002 if tool == "add" else (number + 2) * 2000,
            ]
    answers = await together(*exchanges)
    assert [answer.result["structuredContent"]["result"] for answer in answers] == expected


@pytest.mark.parametrize("restoring", [False, True], ids=["live", "restoring"])
async def test_02_another_principal_with_the_id_learns_what_it_learns_from_an_unknown_one(
    alice: Client, bob: Client, client: Client, server_processes: Processes, restoring: bool
) -> None:
    session = await alice.open()
    stream = await session.stream("steps", steps=1)
    await stream.rest()
    if restoring:
        await server_processes.another()
    for other in (bob, client):
        unknown = [told(answer) for answer in await all_ways(Session(other, UNKNOWN, session.version))]
        assert [status for status, _body, _headers in unknown] == [404] * 4
        assert [told(answer) for answer in await all_ways(session.of(other), stream.last_id)] == unknown
    assert (await session.request("ping")).status == 200
    server_processes.end_others()


async def test_03_a_handle_of_another_principal_is_not_found(application: Application) -> None:
    made = Stateless(Client(application, "/handles/mcp", token="token-of-alice"))
    handle = (await made.call_tool("start"))["structuredContent"]["result"]
    others: list[tuple[str, str | None]] = [("/handles/mcp", "token-of-bob"), ("/handles/mcp", None)]
    answers = []
    for path, token in [*others, ("/handles-second/mcp", "token-of-alice")]:
        for text in (handle, handle[:-4] + "nobo"):
            other = Stateless(Client(application, path, token=token))
            result = await other.call_tool("count", {"reading_list": text})
            assert result["isError"], (path, token)
            answers.append(json.dumps(result["content"]))
    assert len(set(answers)) == 1
    assert not (await made.call_tool("count", {"reading_list": handle})).get("isError")


async def test_04_replay_never_crosses_sessions(alice: Client) -> None:
    mine, theirs = await alice.open(), await alice.open()
    message = {"id": 1, "params": {"_meta": {"progressToken": 1}}}
    ids = []
    for session in (mine, theirs):
        call = session.tool("steps", steps=2)
        stream = await session.begin(call | {"id": 1, "params": call["params"] | message["params"]}).stream()
        await stream.rest()
        ids.append([frame.id for frame in stream.frames if frame.id])
    forged = [*ids[1], ids[0][0][:-1], ids[0][0] + "x", "0", "-1", "x" * 4000, "1-1", "é", ids[0][0].swapcase()]
    for event_id in forged:
        with case(event_id):
            assert (await mine.get(event_id).response()).status == 400
    again = await (await mine.listen(ids[0][1])).rest()
    assert again


async def test_05_a_second_get_neither_hears_nor_silences_the_first(client: Client) -> None:
    session = await client.open()
    async with session.listening() as first:
        # With its first frame it is the reader.
        await first.frame()
        async with session.listening() as second:
            await second.frame()
            await session.call("change_lists_in_thread", outcome="commit")
            assert (await first.message())["method"].startswith("notifications/")
            assert not [frame for frame in second.arrived() if frame.has_message]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "OPTIONS"])
async def test_06_a_rebound_name_and_a_foreign_page_are_refused(
    client: Client, method: str, settings: Settings
) -> None:
    session = await client.open()

    async def status(**headers: str) -> int:
        accept = {"Accept": "text/event-stream"} if method == "GET" else {}
        body = json.dumps(client.message("ping")).encode() if method == "POST" else b""
        exchange = client.exchange(method, body, headers=client.headers(session.id, accept | headers))
        start = await exchange.message()
        exchange.disconnect()
        await asyncio.wait([exchange.task])
        return int(start["status"])

    for host in ("evil.example", "evil.example:80", "[::2]", "testserver.evil.example", ""):
        with case(host):
            assert await status(Host=host) == 400
    for origin in ("http://evil.example", "null", "http://testserver:8080", "https://testserver", "http://[::1]"):
        with case(origin):
            assert await status(Origin=origin) == 403
    settings.ALLOWED_HOSTS = ["testserver", "[::1]"]
    assert await status() < 300
    if method != "DELETE":
        assert await status(Origin="http://testserver") < 300
        assert await status(Host="[::1]:8000", Origin="http://[::1]:8000") < 300


async def test_07_a_page_of_another_site_can_post_nothing(application: Application, stage: Stage) -> None:
    client = Client(application, token="token-of-alice")
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        assert (await client.handshake(headers={"Content-Type": media_type})).status == 415
    assert stage.count("authenticate") == 0
    browser = Browser()
    await sync_to_async(browser.force_login)(await User.objects.acreate(username="ann"))
    cookie = f"{django_settings.SESSION_COOKIE_NAME}={browser.cookies[django_settings.SESSION_COOKIE_NAME].value}"
    site = Client(application, "/logins-only/mcp")
    assert (await site.handshake(headers={"Cookie": cookie})).status == 200
    assert (await site.handshake(headers={"Cookie": cookie, "Origin": "http://evil.example"})).status == 403
    assert (await site.handshake(headers={"Cookie": cookie, "Sec-Fetch-Site": "cross-site"})).status == 401


async def test_08_there_is_no_websocket() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    application = MCPApplication(mcp_django_django())
    scope = {"type": "websocket", "path": "/protocol/mcp", "headers": [], "root_path": ""}
    with pytest.raises(ValueError, match="websocket"):
        await application(scope, receive, send)
    assert sent == []


def mcp_django_django() -> Any:
    """Django's own application."""
    from django.core.asgi import get_asgi_application  # noqa: PLC0415 - a second time it would make another

    return get_asgi_application()


async def test_09_no_uri_keeps_the_matcher_busy(client: Client) -> None:
    session = await client.open()
    for uri in ("protocol://books/" + "a" * 100_000, "protocol://books/" + "%2F" * 30_000, "protocol:" + "/" * 100_000):
        message = client.message("resources/read", {"uri": uri})
        assert (await session.begin(message).response(within=5.0)).error


async def test_10_a_body_without_end_is_refused_before_anything_is_done_with_it(
    alice: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_BODY_BYTES = 200_000
    session = await alice.open("2025-03-26")
    asked = stage.count("authenticate")
    large = b'{"a":"' + b"x" * 250_000 + b'"}'
    assert (await session.post_bytes(large)).status == 413
    assert (await session.post_bytes([large[:100], large[100:150_000], large[150_000:]])).status == 413
    assert stage.count("authenticate") == asked
    for body in (b"[" * 100_000, b'{"a":' * 30_000, b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}'):
        assert (await session.post_bytes(body)).status == 400
    assert (await session.post([0] * 90_000)).error["code"] == -32600


async def test_11_no_malformed_message_ends_a_session(client: Client) -> None:
    session = await client.open()
    broken: list[Any] = [None, 1, "x", [], {}, {"jsonrpc": "1.0"}, {"jsonrpc": "2.0", "id": {}, "method": "ping"}]
    for message in broken:
        response = await session.post(message)
        assert response.status < 500
    assert (await session.call("add", a=1, b=2))["result"] == 3


async def test_12_initialize_without_end_leaves_few_rows_and_half_open_ones_not_for_long(
    alice: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_PRINCIPAL_SESSIONS = 5
    for _ in range(30):
        assert (await alice.handshake()).status == 200
    assert await Row.objects.acount() <= 10
    soon = timezone.now() + timedelta(minutes=11)
    assert not await Row.objects.filter(expires_at__gt=soon).aexists()


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.long)])
async def test_13_a_session_that_was_ended_never_answers_again(
    client: Client, server_processes: Processes, count: int
) -> None:
    chance = random.Random(13)
    await client.open()
    first = server_processes.current
    await server_processes.another()
    second = server_processes.current
    for number in range(count):
        session = await client.open()
        under_way = []
        for _ in range(chance.randrange(1, 6)):
            server_processes.become(chance.choice((first, second)))
            under_way.append(session.begin(session.tool(chance.choice(("acount", "add", "count")), a=1, b=1)))
            for _turn in range(chance.randrange(12)):
                await asyncio.sleep(0)
        server_processes.become(chance.choice((first, second)))
        assert (await session.delete()).status == 204
        for process in (first, second):
            server_processes.become(process)
            assert (await session.request("ping")).status == 404, number
        await together(*under_way)
        for process in (first, second):
            server_processes.become(process)
            assert (await session.request("ping")).status == 404, number
    server_processes.end_others()


async def test_14_a_crowd_restores_once_and_nobody_sees_half_a_session(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    await server_processes.another()
    made = stage.count("made")
    gate = stage.hold("on_restore")
    crowd = [session.begin(session.tool("handled")) for _ in range(100)]
    await gate.reached()
    gate.open()
    answers = await together(*crowd)
    assert {answer.status for answer in answers} == {200}
    assert not [answer.result for answer in answers if answer.result.get("isError")]
    assert (stage.count("made") - made, stage.count("on_restore")) == (1, 1)
    server_processes.end_others()


async def test_15_a_late_answer_settles_no_other_question(client: Client, server_processes: Processes) -> None:
    session = await client.open(capabilities=ASKABLE)
    asked = await (await session.begin(session.tool("ask")).stream()).question()
    await server_processes.restart()
    stream = await session.begin(session.tool("ask")).stream()
    again = await stream.question()
    assert again["id"] != asked["id"]
    assert (await session.answer(asked, {"action": "accept", "content": {"mood": "of the first"}})).status == 202
    await session.answer(again, {"action": "decline"})
    assert "of the first" not in json.dumps(await stream.rest())


async def test_16_nobody_chooses_the_id_of_a_session(client: Client) -> None:
    response = await client.handshake(session="an-id-that-the-client-likes")
    assert response.status == 200
    assert response.header("mcp-session-id") != "an-id-that-the-client-likes"
    assert (await Session(client, "an-id-that-the-client-likes", "2025-11-25").request("ping")).status == 404


async def test_17_a_browsers_session_key_is_no_session_id(client: Client) -> None:
    browser = Browser()
    await sync_to_async(browser.force_login)(await User.objects.acreate(username="ann"))
    key = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
    assert (await Session(client, key, "2025-11-25").request("ping")).status == 404


async def test_18_who_calls_is_found_out_for_each_request_and_holds_inside_a_long_stream(
    alice: Client, stage: Stage
) -> None:
    user = await User.objects.acreate(username="alice")
    session = await alice.open()
    assert (await session.call("facts"))["user"] == "alice"
    gate = stage.hold("here")
    long_call = session.begin(session.tool("pause", place="here"))
    await gate.reached()
    # Whom the token stands for is looked up by this name.
    await User.objects.filter(pk=user.pk).aupdate(username="another")
    assert (await session.call("facts"))["user"] == ""
    gate.open()
    assert (await long_call.response()).status == 200


async def test_19_a_view_of_rest_framework_shows_a_tool_what_it_shows_its_user(application: Application) -> None:
    for name in ("alice", "bob"):
        await User.objects.acreate(username=name)
    for name in ("alice", "bob"):
        tools = await Client(application, "/rest/mcp", token=f"token-of-{name}").open()
        assert await tools.call("usernames") == {"result": [name]}
    page = await sync_to_async(Browser().get)("/rest/users")
    assert (page.status_code, page.json()) == (200, [])


async def test_20_without_an_id_there_is_no_session_even_if_there_is_only_one(client: Client) -> None:
    await client.open()
    for headers in ({}, {"Mcp-Session-Id": ""}):
        response = await client.post(client.message("ping"), headers={"MCP-Protocol-Version": "2025-11-25", **headers})
        assert response.status == 400
        assert "Mcp-Session-Id" in response.error["message"]


async def test_21_credentials_are_looked_at_for_each_request_and_while_a_stream_is_open(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    await User.objects.acreate(username="alice")
    monkeypatch.setitem(granted, "a-token", Grant("alice"))
    session = await Client(application, "/closed/mcp", token="a-token").open()
    assert (await session.request("ping")).status == 200
    stream = await session.listen()
    await stream.frame()
    monkeypatch.delitem(granted, "a-token")
    refused = await session.request("ping")
    assert refused.status == 401
    assert refused.header("www-authenticate")
    await patrol.look(at_all=True)
    await stream.rest()
    assert stream.ended


async def test_22_a_session_of_one_server_is_unknown_to_another(application: Application) -> None:
    session = await Client(application, token="token-of-alice").open()
    elsewhere = Client(application, "/other/mcp", token="token-of-alice")
    unknown = [told(answer) for answer in await all_ways(Session(elsewhere, UNKNOWN, session.version))]
    assert [told(answer) for answer in await all_ways(session.of(elsewhere))] == unknown
    assert (await session.request("ping")).status == 200


async def test_23_a_request_state_is_one_callers_and_outlives_a_new_key(
    application: Application, settings: Settings
) -> None:
    answer = {"question-1": {"action": "accept", "content": {"name": "Ann"}}}

    def asker(token: str | None) -> Stateless:
        return Stateless(Client(application, "/asking/mcp", token=token), ASKABLE)

    message = asker("token-of-alice").tool("ask_name")
    first = await asker("token-of-alice").call_tool("ask_name")
    for other in (asker("token-of-bob"), asker(None)):
        assert (await other.again(message, first, answer)).error["code"] == -32602
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-key-that-is-long-enough-for-anybody"
    result = (await asker("token-of-alice").again(message, first, answer)).result
    assert result["structuredContent"] == {"value": "Hello, Ann"}


CLIENTS = {"aiohttp", "http.client", "httpx", "requests", "urllib.request", "urllib3", "socketserver"}


def test_24_nothing_here_fetches_a_url() -> None:
    source = Path(mcp_django.__file__).parent
    found = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name for name in names if name in CLIENTS}
    assert found == set()


async def test_25_idle_streams_have_a_limit_and_leave_room_for_calls(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_SESSION_STREAMS = 2
    settings.MCP_DJANGO_MAX_STREAMS = 3
    one, two = await client.open(), await client.open()
    streams = [await session.listen() for session in (one, one, two)]
    for stream in streams:
        await stream.frame()
    refused = [await session.get().response() for session in (one, two)]
    assert [response.status for response in refused] == [429, 503]
    assert all(response.header("retry-after") for response in refused)
    assert (await two.call("add", a=1, b=2))["result"] == 3
    for stream in streams:
        await stream.disconnect()


@pytest.mark.parametrize("sky", ["prompt"], indirect=True)
async def test_26_what_processes_tell_each_other_has_no_content_and_no_identity(
    alice: Client, sky: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    send = sky.send

    def hear(message: dict[str, Any]) -> None:
        heard.append(repr(message))
        send(message)

    monkeypatch.setattr(sky, "send", hear)
    user = await User.objects.acreate(username="alice")
    session = await alice.open()
    async with session.listening() as stream:
        await stream.frame()
        await (await session.stream("steps", steps=2, size=7)).rest()
        await session.call("change_lists", which=["tools"])
        await stream.message()
        await until(lambda: any("stream:" in text for text in heard))
    said = " ".join(heard)
    for secret in (session.id, "token-of-alice", "bearer:alice", f"user:{user.pk}", "xxxxxxx", "steps", "progress"):
        assert secret not in said


async def test_27_keys_count_as_they_are_written_and_once(client: Client) -> None:
    session = await client.open()
    twice = b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}'
    assert (await session.post_bytes(twice)).status == 400
    for message in ({"jsonrpc": "2.0", "id": 1, "Method": "ping"}, {"JSONRPC": "2.0", "id": 1, "method": "ping"}):
        assert (await session.post(message)).error["code"] == -32600
    upper = client.message("tools/call", {"Name": "add", "arguments": {"a": 1, "b": 2}})
    assert (await session.post(upper)).error["code"] == -32602


async def test_28_what_a_client_says_of_itself_is_text_to_the_admin(client: Client, settings: Settings) -> None:
    name = "<script>alert('x')</script>"
    session = await client.open(name=name, _meta={"note": name, "large": "x" * 1_000_000})
    settings.ROOT_URLCONF = "demo_project.urls"
    browser = Browser()
    chief = await sync_to_async(User.objects.create_superuser)("chief")
    await sync_to_async(browser.force_login)(chief)
    for path in ("/admin/mcp_django/session/", f"/admin/mcp_django/session/{digest_of(session.id)}/change/"):
        page = (await sync_to_async(browser.get)(path, headers={"host": "testserver"})).content.decode()
        assert "&lt;script&gt;" in page
        assert name not in page
        assert session.id not in page
        assert len(page) < 500_000
