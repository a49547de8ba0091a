"""``subscriptions/listen``: who hears what on which process, and how it ends."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from mcp_types import SERVER_INFO_META_KEY

from mcp_django import jsonrpc, listening, shutdown
from mcp_django.asgi import Application
from mcp_django.exceptions import StoreUnavailable
from mcp_django.models import Session as Row
from tests.protocol import servers
from tests.protocol.client import Client, EventStream, case
from tests.protocol.layers import Broker
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until
from tests.protocol.stateless import Stateless

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
EVERYTHING = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}

everywhere = pytest.mark.parametrize("where", ["same process", "another process"])


@pytest.fixture(autouse=True)
def quick_looks(settings: Settings) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03


@pytest.fixture
def one(client: Client) -> Stateless:
    return Stateless(client)


async def opened(one: Stateless, **notifications: Any) -> EventStream:
    """A stream of notices, acknowledged."""
    stream = await one.listen(**notifications)
    acknowledged = await stream.message()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    return stream


def method_of(message: Any) -> str:
    """What a notice tells of; every one names its subscription."""
    assert message["params"]["_meta"][SUBSCRIPTION], message
    return str(message["method"]).removeprefix("notifications/")


async def test_the_first_message_says_what_will_be_sent_and_names_the_subscription(one: Stateless) -> None:
    message = one.message("subscriptions/listen", {"notifications": {**EVERYTHING, "resourceSubscriptions": []}})
    stream = await one.stream(message)
    first = await stream.event()
    assert first.id is None
    assert first.message["params"] == {"notifications": EVERYTHING, "_meta": {SUBSCRIPTION: message["id"]}}
    assert stream.header("content-type") == "text/event-stream"
    await stream.disconnect()


async def test_an_id_of_any_kind_names_the_subscription(one: Stateless) -> None:
    for id in ("seven", 0, "", -1):
        with case(id):
            message = one.message("subscriptions/listen", {"notifications": EVERYTHING}) | {"id": id}
            stream = await one.stream(message)
            assert (await stream.message())["params"]["_meta"] == {SUBSCRIPTION: id}
            await stream.disconnect()


@everywhere
async def test_a_listener_hears_what_it_asked_for_and_nothing_else(
    one: Stateless, server_processes: Processes, where: str
) -> None:
    tools, prompts, books, nothing = (
        await opened(one, toolsListChanged=True),
        await opened(one, promptsListChanged=True, toolsListChanged=False),
        await opened(one, resourceSubscriptions=["test://books/1", "test://users"]),
        await opened(one),
    )
    if where == "another process":
        server_processes.become(uuid.uuid4())
    await servers.main.anotify_prompts_changed()
    await servers.main.anotify_resource_updated("test://books/2")
    await servers.main.anotify_resource_updated("test://books/1")
    await servers.main.anotify_resources_changed()
    await servers.main.anotify_tools_changed()
    assert method_of(await tools.message()) == "tools/list_changed"
    assert method_of(await prompts.message()) == "prompts/list_changed"
    updated = await books.message()
    assert (method_of(updated), updated["params"]["uri"]) == ("resources/updated", "test://books/1")
    # Whatever else there was for them would have come before this.
    await servers.main.anotify_prompts_changed()
    assert method_of(await prompts.message()) == "prompts/list_changed"
    for stream in (tools, books, nothing):
        assert [frame for frame in stream.arrived() if frame.has_message] == []
    for stream in (tools, prompts, books, nothing):
        await stream.disconnect()


async def test_a_notice_that_was_raised_before_is_not_told(one: Stateless) -> None:
    await servers.main.anotify_tools_changed()
    stream = await opened(one, **EVERYTHING)
    await servers.main.anotify_prompts_changed()
    assert method_of(await stream.message()) == "prompts/list_changed"
    await stream.disconnect()


async def test_notices_are_one_server_s_own(application: Application, one: Stateless) -> None:
    other = await opened(Stateless(Client(application, "/other/mcp")), **EVERYTHING)
    here = await opened(one, **EVERYTHING)
    await servers.main.anotify_tools_changed()
    assert method_of(await here.message()) == "tools/list_changed"
    await servers.other.anotify_prompts_changed()
    assert method_of(await other.message()) == "prompts/list_changed"
    for stream in (here, other):
        await stream.disconnect()


async def test_a_notice_waits_for_the_commit_and_dies_with_a_rollback(one: Stateless) -> None:
    stream = await opened(one, **EVERYTHING)

    def change(fail: bool) -> None:
        with transaction.atomic():
            (servers.main.notify_tools_changed if fail else servers.main.notify_prompts_changed)()
            if fail:
                raise ValueError("rolled back")

    with pytest.raises(ValueError, match="rolled back"):
        await sync_to_async(change)(True)
    await sync_to_async(change)(False)
    assert method_of(await stream.message()) == "prompts/list_changed"
    await stream.disconnect()


async def test_a_tool_that_a_caller_does_not_listen_to_tells_those_who_do(one: Stateless) -> None:
    stream = await opened(one, toolsListChanged=True)
    await one.post(one.tool("change_lists", {"which": ["tools"]}))
    assert method_of(await stream.message()) == "tools/list_changed"
    await stream.disconnect()


async def test_what_a_slow_reader_missed_is_told_once(one: Stateless, server_processes: Processes) -> None:
    exchange = one.begin(one.message("subscriptions/listen", {"notifications": EVERYTHING}), slow=True)
    stream = await exchange.stream()
    await until(lambda: bool(server_processes.streams.listeners))
    (listener,) = server_processes.streams.listeners
    for _ in range(5):
        await servers.main.anotify_tools_changed()
        await server_processes.tick()
    assert len(listener._notices) <= 1
    assert method_of(await stream.message()) == "subscriptions/acknowledged"
    assert method_of(await stream.message()) == "tools/list_changed"
    await stream.disconnect()


# Resources


async def test_only_what_the_caller_can_read_is_subscribed_to(
    application: Application, one: Stateless, stage: Stage
) -> None:
    wanted = ["test://users", "test://no/such", "test://users", "other://users"]
    stream = await one.listen(resourceSubscriptions=wanted)
    assert (await stream.message())["params"]["notifications"] == {"resourceSubscriptions": ["test://users"]}
    await stream.disconnect()


async def test_one_stream_subscribes_to_so_many_resources_at_most(one: Stateless, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_SUBSCRIPTIONS = 2
    wanted = {"resourceSubscriptions": [f"test://books/{number}" for number in range(3)]}
    response = await one.request("subscriptions/listen", {"notifications": wanted})
    assert (response.status, response.error["code"]) == (400, -32602)
    assert "MCP_DJANGO_MAX_SUBSCRIPTIONS" in response.error["message"]


# Bounds and ends


async def test_a_process_has_so_many_connections_at_most_and_calls_go_on(one: Stateless, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_STREAMS = 2
    streams = [await opened(one, **EVERYTHING) for _ in range(2)]
    response = await one.request("subscriptions/listen", {"notifications": EVERYTHING})
    assert response.status == 503
    assert response.header("retry-after") == "3"
    assert await one.call("add", a=1, b=1) == {"result": 2}
    for stream in streams:
        await stream.disconnect()
    await (await opened(one, **EVERYTHING)).disconnect()


async def test_a_listener_is_kept_alive_by_comments(one: Stateless, settings: Settings) -> None:
    settings.MCP_DJANGO_KEEP_ALIVE = 0.05
    stream = await opened(one, **EVERYTHING)
    frame = await stream.frame()
    assert frame is not None
    assert frame.comment == "keep-alive"
    await stream.disconnect()


async def test_nothing_of_a_listener_stays_when_it_is_gone(one: Stateless, server_processes: Processes) -> None:
    stream = await opened(one, **EVERYTHING)
    assert len(server_processes.streams.listeners) == 1
    await stream.disconnect()
    assert not server_processes.streams.listeners
    assert not await Row.objects.aexists()


async def test_a_server_that_ends_says_so_by_the_request_s_result(one: Stateless, server_processes: Processes) -> None:
    message = one.message("subscriptions/listen", {"notifications": EVERYTHING})
    stream = await one.stream(message)
    await stream.message()
    server_processes.streams.closing = True
    await shutdown.end(server_processes.streams)
    (result,) = await stream.rest()
    assert result["id"] == message["id"]
    assert result["result"]["resultType"] == "complete"
    assert result["result"]["_meta"][SUBSCRIPTION] == message["id"]
    assert result["result"]["_meta"][SERVER_INFO_META_KEY]["name"] == "protocol"
    assert (await one.request("subscriptions/listen", {"notifications": EVERYTHING})).status == 503


async def test_a_database_that_is_away_refuses_a_listener_for_now(
    one: Stateless, server_processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(server: str) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(server_processes.streams, "clock", away)
    response = await one.request("subscriptions/listen", {"notifications": EVERYTHING})
    assert response.status == 503
    assert response.header("retry-after") == "3"


@pytest.mark.parametrize("sky", ["prompt"], indirect=True)
async def test_a_hint_brings_a_notice_of_another_process_at_once(
    one: Stateless, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    stream = await opened(one, **EVERYTHING)
    await until(lambda: server_processes.streams.wakeups.connected)
    server_processes.become(uuid.uuid4())
    assert not server_processes.streams.listeners
    await servers.main.anotify_tools_changed()
    assert method_of(await stream.message()) == "tools/list_changed"
    await stream.disconnect()


async def test_an_iterator_that_is_never_begun_is_no_listener(one: Stateless, server_processes: Processes) -> None:
    async def offered(uri: str) -> bool:
        return True

    message = one.message("subscriptions/listen", {"notifications": EVERYTHING})
    request = jsonrpc.message(message)
    assert isinstance(request, jsonrpc.Request)
    response = await listening.listen("protocol", request, offered, {})
    assert response.frames is not None
    async with aclosing(response.frames):
        assert not server_processes.streams.listeners
