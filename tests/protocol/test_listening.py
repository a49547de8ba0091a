"""GET streams: who hears what, where they are resumed, and when they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from mcp_django.batches import Change
from mcp_django.exceptions import EventTooLarge, StoreUnavailable
from mcp_django.models import Event, Stream, Topic, digest_of
from mcp_django.models import Session as Row
from tests.protocol import servers
from tests.protocol.client import Client, EventStream, Session, case, progress_of, with_progress
from tests.protocol.layers import Broker
from tests.protocol.outage import commits_unheard
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LATEST = "2025-11-25"
VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST]
TOOLS = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
PROMPTS = {"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}
RESOURCES = {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}
COMPLETE = "notifications/elicitation/complete"

everywhere = pytest.mark.parametrize("where", ["same process", "another process"])


@pytest.fixture(autouse=True)
def quick_looks(settings: Settings) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03


def updated(uri: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}


def told(text: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": COMPLETE, "params": {"elicitationId": text}}


async def tell(session: Session, *texts: Any) -> None:
    """Send a session notifications, from outside of any call."""
    for text in texts:
        await servers.main.anotify_session(digest_of(session.id), COMPLETE, {"elicitationId": text})


async def opened(session: Session, last_event_id: str | None = None) -> EventStream:
    """A GET stream of which it is clear whether it reads."""
    stream = await session.listen(last_event_id)
    assert await stream.frame() is not None
    return stream


def reads(stream: EventStream) -> bool:
    """Whether an opened stream is the one that reads; of the latest revision only."""
    return stream.frames[0].data == ""


async def move(server_processes: Processes, where: str) -> None:
    if where == "another process":
        await server_processes.another()


@asynccontextmanager
async def nothing_comes(server_processes: Processes, *streams: EventStream) -> AsyncIterator[None]:
    """What happens in this block is told on none of these streams."""
    yield
    await server_processes.tick()
    await sync_to_async(lambda: None)()
    for stream in streams:
        assert [frame for frame in stream.arrived() if frame.has_message] == []


# The stream itself


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_get_is_answered_with_an_event_stream_that_begins_at_once(client: Client, version: str) -> None:
    session = await client.open(version)
    async with session.listening() as stream:
        frame = await stream.frame()
        assert frame is not None
        if version == LATEST:
            assert (frame.data, frame.retry, bool(frame.id)) == ("", 3000, True)
        else:
            assert (frame.data, frame.retry, frame.id, bool(frame.comment)) == (None, None, None, True)
        assert stream.header("content-type") == "text/event-stream"
        assert stream.header("cache-control") == "no-cache, no-transform"
        assert stream.header("x-accel-buffering") == "no"
        await tell(session, "news")
        event = await stream.event()
        assert (event.message, event.event, event.retry, bool(event.id)) == (told("news"), "message", None, True)


async def test_a_get_stream_is_kept_alive_by_comments_whether_it_reads_or_waits(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_KEEP_ALIVE = 0.03
    session = await client.open()
    async with session.listening() as first, session.listening() as second:
        for stream in (first, second):
            frames = [await stream.frame() for _ in range(4)]
            assert all(frame is not None and frame.comment for frame in frames[1:])


REFUSED: list[tuple[int, dict[str, Any]]] = [
    (400, {"Mcp-Session-Id": None}),
    (404, {"Mcp-Session-Id": "nobody's"}),
    (400, {"MCP-Protocol-Version": "2025-01-01"}),
    (405, {"MCP-Protocol-Version": "2026-07-28"}),
    (406, {"Accept": "application/json"}),
    (406, {"Accept": "text/event-stream;q=0"}),
    (404, {"Authorization": "Bearer nonsense"}),
    (403, {"Origin": "https://evil.example"}),
]


async def test_a_get_that_cannot_be_served_is_refused_like_any_request(alice: Client) -> None:
    session = await alice.open()
    for status, headers in REFUSED:
        with case((status, headers)):
            assert (await session.get(headers=headers).response()).status == status
    async with session.listening() as stream:
        assert await stream.frame()


async def test_a_get_restores_its_session(client: Client, server_processes: Processes, stage: Stage) -> None:
    session = await client.open()
    await server_processes.restart()
    stage.fail("on_restore", RuntimeError("The hook has a bug."))
    response = await session.get().response()
    assert (response.status, response.header("retry-after")) == (503, "3")
    async with session.listening() as stream:
        assert await stream.frame()
    assert stage.count("on_restore") == 2


async def test_nothing_of_a_get_stream_stays_in_memory_when_it_is_over(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    for _ in range(3):
        async with session.listening() as first, session.listening() as second:
            assert await first.frame()
            assert await second.frame()
    streams = server_processes.streams
    assert not streams.feeds
    assert not streams.cursors
    assert not streams._by_session
    assert await Stream.objects.acount() == 1


# Notices


async def by_async_code() -> None:
    servers.main.notify_tools_changed()


async def by_async_code_that_waits() -> None:
    await servers.main.anotify_tools_changed()


async def by_sync_code() -> None:
    # As a management command or a task worker does it, which serves nobody.
    await sync_to_async(servers.main.notify_tools_changed)()


async def by_a_transaction() -> None:
    def change() -> None:
        with transaction.atomic():
            servers.main.notify_tools_changed()

    await sync_to_async(change)()


@everywhere
@pytest.mark.parametrize("raise_it", [by_async_code, by_async_code_that_waits, by_sync_code, by_a_transaction])
async def test_a_changed_list_is_told_to_every_stream_of_the_server_wherever_it_was_changed(
    client: Client, alice: Client, server_processes: Processes, where: str, raise_it: Callable[[], Any]
) -> None:
    sessions = [await client.open(), await alice.open(), await client.open("2025-03-26")]
    streams = []
    for session in sessions:
        streams.append(await opened(session))
        await move(server_processes, where)
    elsewhere = await opened(await Client(client.application, "/other/mcp").open())
    async with nothing_comes(server_processes, elsewhere):
        await raise_it()
        for stream in streams:
            assert await stream.message() == TOOLS
    assert not await Event.objects.aexists(), "A notice is not copied per session."
    assert await Topic.objects.acount() == 2


async def test_each_kind_of_notice_has_its_method(client: Client) -> None:
    session = await client.open()
    stream = await opened(session)
    for raise_it, message in (
        (servers.main.anotify_tools_changed, TOOLS),
        (servers.main.anotify_prompts_changed, PROMPTS),
        (servers.main.anotify_resources_changed, RESOURCES),
    ):
        await raise_it()
        assert await stream.message() == message
    await session.call("change_lists", which=["resources", "prompts"])
    assert [await stream.message(), await stream.message()] in ([RESOURCES, PROMPTS], [PROMPTS, RESOURCES])


async def test_sync_tools_raise_notices_when_their_transaction_is_committed_and_not_before(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    stream = await opened(session)
    gate = stage.hold("within")
    exchange = session.begin(session.tool("change_lists_in_thread", outcome="commit"))
    async with nothing_comes(server_processes, stream):
        await gate.reached()
    gate.open()
    await exchange.response()
    assert await stream.message() == TOOLS
    async with nothing_comes(server_processes, stream):
        assert await session.call("change_lists_in_thread", outcome="roll back") == {"value": "rolled back"}
    assert await session.call("change_lists_in_thread", outcome="none") == {"value": None}
    assert await stream.message() == TOOLS


async def test_what_the_sdk_sends_of_changes_goes_to_the_caller_s_own_session_alone(
    client: Client, server_processes: Processes
) -> None:
    session, bystander = await client.open(), await client.open()
    stream, other = await opened(session), await opened(bystander)
    async with nothing_comes(server_processes, other):
        response = await session.post(with_progress(session.tool("change_lists_as_the_sdk_does")))
        assert response.header("content-type") == "application/json", "The call's own answer stays quiet."
        assert await stream.messages(2) == [TOOLS, updated("test://users")]


async def test_many_notices_at_once_are_told_at_least_once(client: Client) -> None:
    session = await client.open()
    stream = await opened(session)
    await asyncio.gather(*(servers.main.anotify_tools_changed() for _ in range(20)))
    await servers.main.anotify_prompts_changed()
    messages = []
    while PROMPTS not in messages:
        messages.append(await stream.message())
    assert TOOLS in messages


@pytest.mark.parametrize("sky", ["prompt", "doubled", "delayed"], indirect=True)
async def test_with_a_broker_a_notice_and_a_message_need_no_poll(
    client: Client, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    session = await client.open()
    stream = await opened(session)
    await until(lambda: server_processes.streams.wakeups.connected)
    await server_processes.another()
    assert (await session.request("ping")).result == {}
    await servers.main.anotify_tools_changed()
    assert await stream.message() == TOOLS
    await tell(session, "news")
    assert await stream.message() == told("news")
    assert sky.hints >= 2


# Notices that were raised while nobody listened


@everywhere
@pytest.mark.parametrize("by_id", [False, True], ids=["anew", "by event id"])
async def test_a_stream_that_comes_back_after_a_notice_is_told_once(
    client: Client, server_processes: Processes, where: str, by_id: bool
) -> None:
    session = await client.open()
    stream = await opened(session)
    for _ in range(3):
        await stream.disconnect()
        await servers.main.anotify_tools_changed()
        await servers.main.anotify_tools_changed()
        await move(server_processes, where)
        stream = await opened(session, stream.last_id if by_id else None)
        assert await stream.message() == TOOLS
    await stream.disconnect()
    stream = await opened(session, stream.last_id if by_id else None)
    async with nothing_comes(server_processes, stream):
        pass


async def test_an_older_event_id_is_told_what_came_after_it(client: Client) -> None:
    session = await client.open()
    stream = await opened(session)
    ids = [stream.last_id]
    for raise_it in (servers.main.anotify_tools_changed, servers.main.anotify_prompts_changed):
        await raise_it()
        await stream.message()
        ids.append(stream.last_id)
    await stream.disconnect()
    for event_id, messages in zip(ids, ([TOOLS, PROMPTS], [PROMPTS], []), strict=True):
        async with session.listening(event_id) as resumed:
            heard = await resumed.messages(len(messages))
            assert heard == messages


async def test_a_session_that_listens_for_the_first_time_is_told_nothing_of_the_past(
    client: Client, server_processes: Processes
) -> None:
    await servers.main.anotify_tools_changed()
    session, spoken_to = await client.open(), await client.open()
    await tell(spoken_to, "news")
    stream, other = await opened(session), await opened(spoken_to)
    assert await other.message() == told("news")
    async with nothing_comes(server_processes, stream, other):
        pass


async def test_a_deploy_that_changed_the_tools_is_told_after_the_restore(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    await server_processes.restart()
    await Row.objects.aupdate(tools_fingerprint="of other code")
    stream = await opened(session)
    assert await stream.message() == TOOLS
    await server_processes.restart()
    stream = await opened(session)
    async with nothing_comes(server_processes, stream):
        pass


# Subscriptions


async def subscribe(session: Session, uri: str) -> None:
    assert (await session.request("resources/subscribe", {"uri": uri})).result == {}


@everywhere
async def test_an_updated_resource_is_told_to_those_who_subscribed_to_it(
    client: Client, server_processes: Processes, where: str
) -> None:
    subscribed, bystander = await client.open(), await client.open()
    await subscribe(subscribed, "test://users")
    await subscribe(subscribed, "test://books/1")
    await subscribe(bystander, "test://books/2")
    await move(server_processes, where)
    stream, other = await opened(subscribed), await opened(bystander)
    await move(server_processes, where)
    async with nothing_comes(server_processes, other):
        for uri in ("test://users", "test://books/1"):
            await servers.main.anotify_resource_updated(uri)
            assert await stream.message() == updated(uri)
    assert (await Row.objects.aget(pk=digest_of(subscribed.id))).subscriptions == ["test://users", "test://books/1"]


@everywhere
async def test_whoever_unsubscribes_hears_no_more(client: Client, server_processes: Processes, where: str) -> None:
    session = await client.open()
    await subscribe(session, "test://users")
    await subscribe(session, "test://books/1")
    stream = await opened(session)
    await move(server_processes, where)
    assert (await session.request("resources/unsubscribe", {"uri": "test://users"})).result == {}
    await servers.main.anotify_resource_updated("test://users")
    await servers.main.anotify_resource_updated("test://books/1")
    assert await stream.message() == updated("test://books/1")
    assert (await session.request("resources/unsubscribe", {"uri": "test://never"})).result == {}


async def test_a_subscription_made_elsewhere_is_known_before_the_next_update_is_told(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    stream = await opened(session)
    listening = server_processes.streams
    listening.watcher.stop()
    first = await server_processes.another()
    await subscribe(session, "test://users")
    await servers.main.anotify_resource_updated("test://users")
    server_processes.become(first)
    await server_processes.tick()
    assert await stream.message() == updated("test://users")


@pytest.mark.parametrize("sky", ["prompt"], indirect=True)
async def test_the_same_if_only_a_hint_tells_of_it(
    client: Client, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    session = await client.open()
    stream = await opened(session)
    await until(lambda: server_processes.streams.wakeups.connected)
    await server_processes.another()
    await subscribe(session, "test://users")
    await servers.main.anotify_resource_updated("test://users")
    assert await stream.message() == updated("test://users")


async def test_only_what_there_is_can_be_subscribed_to_and_not_too_much_of_it(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_SUBSCRIPTIONS = 2
    session = await client.open()
    for uri in ("test://no/such", "other://users", "test://books/" + "x" * 5000):
        error = (await session.request("resources/subscribe", {"uri": uri})).error
        assert error["code"] == -32002
    for number in (1, 2, 2):
        await subscribe(session, f"test://books/{number}")
    error = (await session.request("resources/subscribe", {"uri": "test://books/3"})).error
    assert error["code"] == -32603
    assert "MCP_DJANGO_MAX_SUBSCRIPTIONS" in error["message"]
    assert (await Row.objects.aget()).subscriptions == ["test://books/1", "test://books/2"]


# Messages for one session


@everywhere
async def test_a_message_for_one_session_reaches_it_whether_it_listens_already_or_later(
    client: Client, server_processes: Processes, where: str
) -> None:
    session, bystander = await client.open(), await client.open()
    other = await opened(bystander)
    await tell(session, 1, 2)
    await move(server_processes, where)
    stream = await opened(session)
    assert await stream.messages(2) == [told(1), told(2)]
    await move(server_processes, where)
    await tell(session, 3)
    key = (await session.call("session_key"))["result"]
    servers.main.notify_session(key, COMPLETE, {"elicitationId": 4})
    assert await stream.messages(2) == [told(3), told(4)]
    await stream.disconnect()
    async with nothing_comes(server_processes, other):
        await tell(session, 5)
        stream = await opened(session)
        assert await stream.message() == told(5), "What was heard is not told again."


async def test_messages_for_nobody_are_dropped(client: Client, server_processes: Processes) -> None:
    ended, elsewhere = await client.open(), await Client(client.application, "/other/mcp").open()
    await ended.delete()
    await tell(ended, "news")
    await tell(elsewhere, "news of another server")
    await servers.main.anotify_session("nobody's digest", COMPLETE)
    assert not await Event.objects.aexists()
    assert not await Stream.objects.aexists()


async def test_a_message_that_cannot_be_sent_is_an_error_for_the_sender(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_EVENT_BYTES = 1000
    session = await client.open()
    with pytest.raises(EventTooLarge, match="MCP_DJANGO_MAX_EVENT_BYTES"):
        await tell(session, "x" * 1000)
    for params in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            await servers.main.anotify_session(digest_of(session.id), COMPLETE, params)


async def test_many_writers_of_one_session_s_messages_lose_and_double_none(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    stream = await opened(session)
    await asyncio.gather(*(tell(session, f"{writer}.{number}") for writer in range(8) for number in range(8)))
    messages = await stream.messages(64)
    assert sorted(message["params"]["elicitationId"] for message in messages) == sorted(
        f"{writer}.{number}" for writer in range(8) for number in range(8)
    )
    async with nothing_comes(server_processes, stream):
        pass


@everywhere
async def test_a_get_stream_that_breaks_after_any_message_loses_and_doubles_nothing(
    client: Client, server_processes: Processes, where: str
) -> None:
    session = await client.open()
    for count in range(6):
        with case(count):
            stream = await opened(session)
            await tell(session, *range(6))
            heard = await stream.messages(count)
            await stream.disconnect()
            await move(server_processes, where)
            resumed = await opened(session, stream.last_id)
            assert resumed.frames[0].id == stream.last_id
            heard += await resumed.messages(6 - count)
            assert heard == [told(number) for number in range(6)]
            await resumed.disconnect()


# Two GETs on one session


@everywhere
async def test_of_an_owner_s_connections_the_newest_reads(
    alice: Client, server_processes: Processes, where: str
) -> None:
    session = await alice.open()
    streams = [await opened(session)]
    for number in range(3):
        await tell(session, number)
        assert await streams[-1].message() == told(number)
        await move(server_processes, where)
        streams.append(await opened(session))
        assert reads(streams[-1])
        assert await streams[-2].rest() == [], "The one before is closed."
    await servers.main.anotify_tools_changed()
    assert await streams[-1].message() == TOOLS


@everywhere
async def test_a_second_anonymous_connection_neither_hears_nor_silences_the_first_and_takes_over_when_that_is_gone(
    client: Client, server_processes: Processes, where: str
) -> None:
    session = await client.open()
    first = await opened(session)
    await move(server_processes, where)
    second = await opened(session)
    third = await opened(session)
    assert [reads(first), reads(second), reads(third)] == [True, False, False]
    async with nothing_comes(server_processes, second, third):
        await tell(session, 1)
        await servers.main.anotify_tools_changed()
        assert sorted([await first.message(), await first.message()], key=str) == sorted([told(1), TOOLS], key=str)
    assert all(frame.id is None for stream in (second, third) for frame in stream.frames), "An id would take it over."
    await first.disconnect()
    streams = [second, third]
    await tell(session, 2)
    async with asyncio.timeout(10):
        heirs = [asyncio.create_task(stream.message()) for stream in streams]
        done, pending = await asyncio.wait(heirs, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [told(2)]
    heir = streams[heirs.index(next(iter(done)))]
    priming = next(frame for frame in heir.frames if frame.id)
    assert (priming.data, priming.retry) == ("", 3000)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    await servers.main.anotify_prompts_changed()
    assert await heir.message() == PROMPTS


@everywhere
@pytest.mark.parametrize("owned", [True, False], ids=["owner", "anonymous"])
async def test_whoever_shows_an_event_id_of_the_stream_takes_it_over_at_once(
    client: Client, alice: Client, server_processes: Processes, where: str, owned: bool
) -> None:
    session = await (alice if owned else client).open()
    first = await opened(session)
    for number in range(3):
        await tell(session, number)
        assert await first.message() == told(number)
        await move(server_processes, where)
        second = await opened(session, first.last_id)
        assert reads(second)
        assert second.frames[0].id == first.last_id
        assert await first.rest() == []
        first = second
    await tell(session, "to the last")
    assert await first.message() == told("to the last")


@everywhere
async def test_each_message_goes_to_exactly_one_of_many_connections_that_fight_for_it(
    alice: Client, server_processes: Processes, where: str
) -> None:
    session = await alice.open()
    streams: list[EventStream] = []
    sent, enough = 0, asyncio.Event()

    async def send() -> None:
        nonlocal sent
        while not enough.is_set():
            await tell(session, sent)
            sent += 1

    sending = asyncio.create_task(send())
    for _ in range(6):
        streams.append(await opened(session))
        await move(server_processes, where)
        await streams[-1].messages(3)
    enough.set()
    await sending
    last = await opened(session)
    await tell(session, "the end")
    while await last.message() != told("the end"):
        pass
    for stream in streams:
        await stream.rest()
    everything = [frame.message for stream in [*streams, last] for frame in stream.frames if frame.has_message]
    texts = [message["params"]["elicitationId"] for message in everything]
    assert sorted(texts, key=str) == sorted([*range(sent), "the end"], key=str)


async def test_a_held_connection_takes_over_from_a_reader_whose_process_died(
    client: Client, server_processes: Processes, settings: Settings
) -> None:
    settings.MCP_DJANGO_KEEP_ALIVE = 0.03
    session = await client.open()
    first = await opened(session)
    await tell(session, 1)
    assert await first.message() == told(1)
    await server_processes.restart()
    second = await opened(session)
    assert not reads(second)
    await tell(session, 2)
    await server_processes.let_judge()
    assert await second.message() == told(2)


async def test_a_connection_that_breaks_while_it_becomes_the_reader_keeps_nobody_out(
    client: Client, server_processes: Processes, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await client.open()
    await tell(session, "news")
    store = server_processes.streams.store
    take, gate = store.take_if_free, stage.hold("taken")

    async def held(*args: Any) -> bool:
        taken = await take(*args)
        await stage.visit("taken")
        return taken

    monkeypatch.setattr(store, "take_if_free", held)
    broken = await session.listen()
    await gate.reached()
    await broken.disconnect()
    monkeypatch.setattr(store, "take_if_free", take)
    await until(lambda: not server_processes.streams.cursors)
    stream = await opened(session)
    assert await stream.message() == told("news")


async def test_a_reader_is_not_taken_for_the_one_before_it_by_a_look_that_was_under_way(
    alice: Client, server_processes: Processes, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await alice.open()
    first = await opened(session)
    streams = server_processes.streams
    streams.watcher.stop()
    heads, gate = streams.store.heads, stage.hold("the head is read")

    async def held(wanted: Any) -> Any:
        found = await heads(wanted)
        await stage.visit("the head is read")
        return found

    monkeypatch.setattr(streams.store, "heads", held)
    looking = asyncio.create_task(server_processes.tick())
    await gate.reached()
    monkeypatch.setattr(streams.store, "heads", heads)
    second = await opened(session)
    assert await first.rest() == []
    gate.open()
    await looking
    await tell(session, "news")
    assert await second.message() == told("news")


# The database is away


@pytest.mark.parametrize("method", ["clocks", "take_if_free", "events", "deliver"])
async def test_a_database_that_is_away_for_a_moment_ends_no_get_stream(
    client: Client, server_processes: Processes, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    session = await client.open()
    await tell(session, "news")
    store = server_processes.streams.store
    work, failures = getattr(store, method), 2

    async def fail(*args: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("The database refused.")
        return await work(*args)

    monkeypatch.setattr(store, method, fail)
    stream = await session.listen()
    assert await stream.message() == told("news")
    assert failures == 0
    assert next(frame for frame in stream.frames if frame.id).data == "", "It begins as every stream does."


async def test_a_delivery_that_was_kept_counts_although_nothing_was_heard_of_it(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    stream = await opened(session)
    with commits_unheard(Change) as unheard:
        await tell(session, "news")
        assert await stream.message() == told("news")
    assert unheard() == 1
    await tell(session, "more news")
    assert await stream.message() == told("more news")


# The end


async def by_delete(session: Session) -> None:
    assert (await session.delete()).status == 204


async def by_the_admin(session: Session) -> None:
    assert await sync_to_async(Row.objects.filter(pk=digest_of(session.id)).end_all)("ended in the admin") == 1


async def by_expiry(session: Session) -> None:
    past = timezone.now() - timedelta(seconds=1)
    assert await Row.objects.filter(pk=digest_of(session.id)).aupdate(expires_at=past) == 1


async def by_pruning(session: Session) -> None:
    await Row.objects.filter(pk=digest_of(session.id)).adelete()


@everywhere
@pytest.mark.parametrize("end", [by_delete, by_the_admin, by_expiry, by_pruning])
async def test_a_session_s_end_ends_its_streams_and_its_calls(
    client: Client, server_processes: Processes, stage: Stage, where: str, end: Callable[[Session], Any]
) -> None:
    session, bystander = await client.open(), await client.open()
    gate = stage.hold("step 2")
    reader, held, other = await opened(session), await opened(session), await opened(bystander)
    call = await session.stream("steps", steps=3)
    assert progress_of([await call.message()]) == [1]
    await gate.reached()
    streams = server_processes.streams
    await move(server_processes, where)
    await end(session)
    for stream in (reader, held):
        assert await stream.rest() == []
    messages = await call.rest()
    # With the session's row goes the log in which the answer would be, unless it is sent before that is noticed.
    codes = [message["error"]["code"] for message in messages]
    assert codes == [-32000] or (end is by_pruning and codes == [])
    await until(lambda: not streams.calls)
    gate.open()
    assert (await session.get().response()).status == 404
    await tell(bystander, "news")
    assert await other.message() == told("news")


async def test_a_session_that_only_listens_is_in_use_and_does_not_expire(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    stream = await opened(session)
    soon = timezone.now() + timedelta(minutes=1)
    await Row.objects.aupdate(expires_at=soon, last_seen_at=timezone.now() - timedelta(hours=1))
    await server_processes.tick()
    # One lane writes in order: when this is answered, the touch has been made.
    await session.request("logging/setLevel", {"level": "info"})
    assert (await Row.objects.aget()).expires_at > soon
    await stream.disconnect()


# Caps


async def test_a_session_may_have_so_many_connections_and_no_more(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_SESSION_STREAMS = 2
    session, other = await client.open(), await client.open()
    first, second = await opened(session), await opened(session)
    response = await session.get().response()
    assert (response.status, response.header("retry-after")) == (429, "3")
    assert response.error["code"] == -32003
    assert "MCP_DJANGO_MAX_SESSION_STREAMS" in response.error["message"]
    # Others, and other requests of this session, are unharmed.
    async with other.listening() as stream:
        assert await stream.frame()
    assert await session.call("add", a=1, b=2) == {"result": 3}
    assert progress_of(await (await session.stream("steps", steps=2)).rest()) == [1, 2]
    await second.disconnect()
    third = await opened(session)
    await tell(session, "news")
    assert await first.message() == told("news")
    await third.disconnect()
    assert (await session.delete()).status == 204


async def test_a_process_may_have_so_many_connections_and_no_more(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_STREAMS = 3
    sessions = [await client.open() for _ in range(4)]
    streams = [await opened(session) for session in sessions[:3]]
    response = await sessions[3].get().response()
    assert (response.status, response.header("retry-after")) == (503, "3")
    assert "MCP_DJANGO_MAX_STREAMS" in response.error["message"]
    assert await sessions[3].call("add", a=1, b=2) == {"result": 3}
    assert progress_of(await (await sessions[3].stream("steps", steps=2)).rest()) == [1, 2]
    assert (await client.open()).id
    await streams[0].disconnect()
    assert reads(await opened(sessions[3]))


async def test_connections_that_come_all_at_once_stay_within_the_caps(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_SESSION_STREAMS = 3
    session = await client.open()
    exchanges = [session.get() for _ in range(12)]
    # Refused, or closed at once if there was room when it came.
    await until(lambda: sum(exchange.task.done() for exchange in exchanges) == 9)
    assert (await session.get().response()).status == 429
    open_ones = [exchange for exchange in exchanges if not exchange.task.done()]
    assert len(open_ones) == 3
    streams = [await exchange.stream() for exchange in open_ones]
    for stream in streams:
        assert await stream.frame()
    for stream in streams:
        await stream.disconnect()
    assert reads(await opened(session))
