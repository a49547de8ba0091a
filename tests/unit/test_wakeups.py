"""Wake-ups: hints reach the other processes, and no broker, whatever it does, holds up whoever sends them.

"Processes" are `Wakeups` objects here, each with a thread and a layer of its own, on one broker.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, get_channel_layer
from django.conf import settings
from django.test import override_settings
from django.utils.module_loading import import_string
from hypothesis import given
from hypothesis import strategies as st

from mcp_django import background, wakeups
from mcp_django.wakeups import EVERYTHING, GROUP, LOOK, Link, Outbox, Wakeups, addresses, configured_layer
from tests.live.gate import Gate
from tests.unit.waiting import SECONDS, bounded, eventually

LOGGER = "mcp_django.wakeups"
LOOK_AT_ALL = frozenset({EVERYTHING})
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


class Broker:
    """What the fake layers of all processes share, and what a test lets happen to it."""

    def __init__(self) -> None:
        self.members: dict[str, Layer] = {}
        self.sent: list[list[str]] = []
        self.log: list[tuple[str, str, str]] = []
        self.copies: Callable[[list[str]], int] = lambda at: 1
        self.held_up: set[tuple[str, str]] = set()
        self._failing: dict[str, BaseException] = {}
        self._held: dict[str, threading.Event] = {}
        self._stubborn = False

    def fail(self, *operations: str, error: BaseException | None = None) -> None:
        """From now on these operations fail."""
        self._failing.update(dict.fromkeys(operations, error or ConnectionError("refused")))

    def stall(self, *operations: str, stubborn: bool = False) -> None:
        """From now on these operations do not return before `mend`; stubborn ones not even when they are cancelled."""
        self._stubborn = stubborn
        self._held.update((operation, threading.Event()) for operation in operations)

    def mend(self) -> None:
        self.held_up.clear()
        held, self._held = self._held, {}
        self._failing.clear()
        for event in held.values():
            event.set()

    async def operation(self, name: str, detail: str = "") -> None:
        self.log.append((name, detail, threading.current_thread().name))
        if event := self._held.get(name):
            self.held_up.add((name, detail))
            while not event.is_set():
                try:
                    await asyncio.sleep(0.005)
                except asyncio.CancelledError:
                    if not self._stubborn:
                        raise
        if error := self._failing.get(name):
            raise error

    def has_sent(self, *addresses: str) -> None:
        """Wait until these have left."""
        eventually(lambda: set(addresses) <= set().union(*self.sent), f"{addresses} leave")

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _detail, _thread in self.log)

    def inject(self, message: Any) -> None:
        """What somebody else put on the group."""
        for channel, layer in list(self.members.items()):
            layer.deliver(channel, message)


class Layer:
    """One process's layer. Made in the wake-ups' thread, like all that is done with it."""

    def __init__(self, broker: Broker) -> None:
        broker.log.append(("layer", colour.get(), threading.current_thread().name))
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, asyncio.Queue[Any]] = {}

    async def new_channel(self) -> str:
        await self._broker.operation("new_channel")
        channel = f"specific.{secrets.token_hex(4)}"
        self._queues[channel] = asyncio.Queue()
        return channel

    async def group_add(self, group: str, channel: str) -> None:
        # Refuses names that are none.
        await InMemoryChannelLayer().group_add(group, channel)
        await self._broker.operation("group_add", channel)
        self._broker.members[channel] = self

    async def group_discard(self, group: str, channel: str) -> None:
        await self._broker.operation("group_discard", channel)
        self._broker.members.pop(channel, None)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        assert group == GROUP
        at = message["at"]
        # What a process sends to hear itself is another operation here, so that tests need not know when it does.
        await self._broker.operation("group_send" if at else "echo")
        if at:
            self._broker.sent.append(at)
        for _copy in range(self._broker.copies(at)):
            self._broker.inject(message)

    async def receive(self, channel: str) -> Any:
        await self._broker.operation("receive")
        message = await self._queues[channel].get()
        await self._broker.operation("received")
        return message

    def deliver(self, channel: str, message: Any) -> None:
        # A loop that is closed is a process that has gone.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queues[channel].put_nowait, deepcopy(message))


class Process:
    """One process on a broker, and what it heard."""

    def __init__(self, layer: Callable[[], Any]) -> None:
        self.heard: list[frozenset[str]] = []
        self.threads: set[str] = set()
        self.wakeups = Wakeups(self.hear, layer)

    def hear(self, at: frozenset[str]) -> None:
        self.threads.add(threading.current_thread().name)
        self.heard.append(at)

    def send(self, *addresses: str) -> None:
        for address in addresses:
            self.wakeups.send(address)

    def listen(self) -> Process:
        """Listen, and wait until it does."""
        before = self.looks_at_all
        self.wakeups.listen()
        eventually(lambda: self.wakeups.connected and self.looks_at_all > before, "the process listens")
        return self

    def has_heard(self, *addresses: str) -> bool:
        return set(addresses) <= set().union(*self.heard)

    def hears(self, *addresses: str) -> None:
        eventually(lambda: self.has_heard(*addresses), f"the process hears {addresses}")

    def gets_through_to(self, other: Process, address: str) -> None:
        """Send until the other hears: where patience is short, a busy machine may lose what is sent once."""

        def got_through() -> bool:
            self.send(address)
            return other.has_heard(address)

        eventually(got_through, f"{address} gets through")

    @property
    def looks_at_all(self) -> int:
        return self.heard.count(LOOK_AT_ALL)


Start = Callable[..., Process]


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.mend()


@pytest.fixture
def start(broker: Broker) -> Iterator[Start]:
    """Starts processes; all end with the test, and leave no thread."""
    started: list[Process] = []

    def start(layer: Callable[[], Any] = lambda: Layer(broker)) -> Process:
        started.append(Process(layer))
        return started[-1]

    yield start
    broker.mend()
    for process in started:
        process.wakeups.stop()
    eventually(lambda: not threads(), "the threads end")


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """What was left open is found here, and not in the middle of another module's tests."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses patience only because the machine is busy; threads that other tests left are not counted."""
    monkeypatch.setattr(wakeups, "THREAD", "mcp-django-test-wakeups")
    for name in ("SEND_TIMEOUT", "ECHO_TIMEOUT", "FAREWELL_SECONDS"):
        monkeypatch.setattr(wakeups, name, SECONDS)
    for name in ("ROUND_SECONDS", "JOIN_SECONDS"):
        monkeypatch.setattr(background, name, SECONDS)


@pytest.fixture
def soon(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker that tries again soon."""
    monkeypatch.setattr(wakeups, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(wakeups, "LAST_WAIT", 0.05)


@pytest.fixture
def hasty(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that takes a send for stalled sooner than it should."""
    monkeypatch.setattr(wakeups, "SEND_TIMEOUT", 0.3)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker that stays open."""
    monkeypatch.setattr(wakeups, "FIRST_WAIT", 3600.0)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == wakeups.THREAD]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


class TestHints:
    def test_a_hint_reaches_every_other_process_and_not_its_own(self, start: Start) -> None:
        here, there, elsewhere = start().listen(), start().listen(), start().listen()
        here.send("stream:1")
        there.hears("stream:1")
        elsewhere.hears("stream:1")
        # Whatever else is under way to the first process would have come before this.
        there.send("stream:2")
        here.hears("stream:2")
        assert frozenset({"stream:1"}) not in here.heard

    def test_a_process_that_does_not_listen_can_send(self, start: Start, broker: Broker) -> None:
        """A view, a management command, a task worker."""
        there, here = start().listen(), start()
        here.send("topics:library")
        there.hears("topics:library")
        assert len(broker.members) == 1
        assert here.heard == []

    def test_a_process_that_has_sent_can_listen_later(self, start: Start, broker: Broker) -> None:
        here, there = start(), start().listen()
        here.send("stream:1")
        there.hears("stream:1")
        here.listen()
        there.send("stream:2")
        here.hears("stream:2")
        assert broker.count("layer") == 2

    def test_listening_twice_is_listening_once(self, start: Start, broker: Broker) -> None:
        here = start().listen()
        for _time in range(3):
            here.wakeups.listen()
        start().listen().send("stream:1")
        here.hears("stream:1")
        assert here.heard == [LOOK_AT_ALL, frozenset({"stream:1"})]
        assert len(broker.members) == 2

    def test_who_begins_to_listen_looks_at_everything_once(self, start: Start, broker: Broker) -> None:
        """What was sent a moment before was missed."""
        here = start()
        broker.stall("group_add")
        here.wakeups.listen()
        eventually(lambda: broker.count("group_add"), "the process is about to join")
        assert here.heard == []
        assert not here.wakeups.connected
        broker.mend()
        eventually(lambda: here.heard, "the process looks")
        assert here.heard == [LOOK_AT_ALL]

    def test_a_hint_that_comes_twice_or_not_at_all_disturbs_nobody(self, start: Start, broker: Broker) -> None:
        here, there = start().listen(), start().listen()
        broker.copies = lambda at: {"lost": 0, "twice": 2}.get("".join(at), 1)
        for address in ["lost", "twice", "last"]:
            here.send(address)
            broker.has_sent(address)
        there.hears("last")
        assert there.heard[1:] == [frozenset({"twice"}), frozenset({"twice"}), frozenset({"last"})]
        assert here.wakeups.connected

    def test_a_hint_that_comes_late_comes(self, start: Start, broker: Broker) -> None:
        here, there = start().listen(), start().listen()
        broker.stall("received")
        here.send("stream:1")
        eventually(lambda: broker.sent == [["stream:1"]], "the hint leaves")
        assert there.heard == [LOOK_AT_ALL]
        broker.mend()
        there.hears("stream:1")

    def test_all_that_has_to_do_with_the_layer_is_done_in_one_thread_and_in_no_callers_context(
        self, start: Start, broker: Broker
    ) -> None:
        token = colour.set("red")
        here, there = start().listen(), start().listen()
        here.send("stream:1")
        colour.reset(token)
        there.hears("stream:1")
        assert {thread for _name, _detail, thread in broker.log} == {wakeups.THREAD}
        assert {detail for name, detail, _thread in broker.log if name == "layer"} == {"none"}
        assert there.threads == {wakeups.THREAD}
        assert all(thread.daemon for thread in threads())

    def test_a_look_that_fails_is_logged_and_the_next_hint_arrives(
        self, start: Start, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(Process):
            def hear(self, at: frozenset[str]) -> None:
                super().hear(at)
                raise ValueError("this one")

        here, there = start().listen(), Failing(lambda: Layer(broker)).listen()
        here.send("stream:1")
        there.hears("stream:1")
        here.send("stream:2")
        there.hears("stream:2")
        there.wakeups.stop()
        assert {str(record.exc_info[1]) for record in caplog.records if record.exc_info} == {"this one"}

    def test_a_membership_that_the_broker_forgot_is_renewed(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wakeups, "RENEW_SECONDS", 0.01)
        here, there = start().listen(), start().listen()
        # While both are about to join again: what a process sends to hear itself must not be lost with its membership.
        broker.stall("group_add")
        eventually(lambda: len(broker.held_up) == 2, "the processes are about to join again")
        broker.members.clear()
        broker.mend()
        eventually(lambda: len(broker.members) == 2, "the processes join again")
        here.send("stream:1")
        there.hears("stream:1")
        assert broker.count("group_add") > 2
        assert broker.count("layer") == 2
        assert [here.looks_at_all, there.looks_at_all] == [1, 1]


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            None,
            "stream:1",
            [],
            {},
            {"type": LOOK},
            {"type": LOOK, "at": None},
            {"type": LOOK, "at": "stream:1"},
            {"type": LOOK, "at": {"stream:1": 1}},
            {"type": LOOK, "at": [1]},
            {"type": LOOK, "at": ["stream:1", None]},
            {"type": LOOK, "at": [["stream:1"]]},
            {"type": "chat.message", "at": ["stream:1"]},
            {"at": ["stream:1"]},
        ],
    )
    def test_what_is_no_hint_is_ignored(self, start: Start, broker: Broker, message: Any) -> None:
        here = start().listen()
        broker.inject(message)
        broker.inject({"type": LOOK, "from": "elsewhere", "at": ["stream:2"]})
        here.hears("stream:2")
        assert here.heard == [LOOK_AT_ALL, frozenset({"stream:2"})]
        assert broker.count("layer") == 1

    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.just(LOOK),
        lambda children: (
            st.lists(children)
            | st.dictionaries(st.sampled_from(["type", "from", "at"]) | st.text(), children)
            | st.fixed_dictionaries({"type": st.just(LOOK), "at": st.lists(children)})
        ),
    )

    @given(anything)
    def test_whatever_comes_is_a_list_of_addresses_or_nothing(self, message: Any) -> None:
        found = addresses(message, "own")
        assert found == [] or found is message["at"]
        assert all(isinstance(address, str) for address in found)

    @given(st.lists(st.text()), st.text())
    def test_a_hint_is_heard_by_all_but_its_sender(self, at: list[str], tag: str) -> None:
        message = {"type": LOOK, "from": tag, "at": at}
        assert addresses(message, tag) == []
        assert addresses(message, tag + "!") == at

    def test_a_message_says_no_more_than_where_to_look(self, start: Start, broker: Broker) -> None:
        messages: list[dict[str, Any]] = []

        class Copying(Layer):
            async def group_send(self, group: str, message: dict[str, Any]) -> None:
                messages.append(message)

        start(lambda: Copying(broker)).send("stream:1")
        eventually(lambda: messages, "the hint leaves")
        (message,) = messages
        assert message == {"type": "mcp.look", "from": message["from"], "at": ["stream:1"]}
        assert isinstance(message["from"], str)


class TestGathering:
    def test_a_lone_hint_leaves_at_once_and_those_that_follow_leave_together(
        self, start: Start, broker: Broker
    ) -> None:
        here = start()
        broker.stall("group_send")
        here.send("first")
        eventually(lambda: broker.count("group_send"), "the first hint is under way")
        here.send("a", "b", "a", "c", "a")
        broker.mend()
        eventually(lambda: len(broker.sent) == 2, "the others leave")
        assert broker.sent[0] == ["first"]
        assert sorted(broker.sent[1]) == ["a", "b", "c"]

    def test_between_two_messages_there_is_time_to_gather(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wakeups, "INTERVAL", 0.05)
        left: list[float] = []

        def note(at: list[str]) -> int:
            left.append(monotonic())
            return 1

        broker.copies = note
        here = start()
        here.send("a")
        eventually(lambda: left, "the first hint leaves")
        here.send("b")
        eventually(lambda: len(left) == 2, "the second hint leaves")
        # As precisely as the clock that timers run on.
        assert left[1] - left[0] > 0.045

    def test_a_message_has_no_more_than_so_many_addresses(self, start: Start, broker: Broker) -> None:
        here, there = start(), start().listen()
        broker.stall("group_send")
        here.send("first")
        eventually(lambda: broker.count("group_send"), "the first hint is under way")
        wanted = [f"stream:{number}" for number in range(1_200)]
        here.send(*wanted)
        broker.mend()
        there.hears(*wanted)
        assert [len(at) for at in broker.sent] == [1, 500, 500, 200]

    def test_when_too_many_gather_the_hint_is_to_look_at_everything(self, start: Start, broker: Broker) -> None:
        here = start()
        broker.stall("group_send")
        here.send("first")
        eventually(lambda: broker.count("group_send"), "the first hint is under way")
        here.send(*[f"stream:{number}" for number in range(wakeups.MAX_GATHERED + 1)], "stream:last")
        broker.mend()
        eventually(lambda: len(broker.sent) == 2, "the others leave")
        assert broker.sent[1] == [EVERYTHING]
        here.send("stream:1")
        eventually(lambda: len(broker.sent) == 3, "the next hint leaves")
        assert broker.sent[2] == ["stream:1"]

    def test_what_many_threads_send_arrives(self, start: Start) -> None:
        here, there = start(), start().listen()
        wanted = [f"stream:{number}" for number in range(4_000)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(here.send, wanted))
        there.hears(*wanted)

    @pytest.mark.parametrize("address", ["server:bücher", "x" * 201, "\ud800"])
    def test_an_address_that_a_layer_may_not_take_becomes_everything(
        self, start: Start, broker: Broker, address: str
    ) -> None:
        start().send(address)
        eventually(lambda: broker.sent, "the hint leaves")
        assert broker.sent == [[EVERYTHING]]

    @given(st.lists(st.none() | st.sampled_from([EVERYTHING, *"abcdef"])))
    def test_the_outbox_is_bounded_forgets_nothing_and_says_once_that_there_is_something(
        self, steps: list[str | None]
    ) -> None:
        """A step is an address to put, or None to take."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wakeups, "MAX_GATHERED", 4)
            outbox = Outbox()
            gathered: set[str] = set()
            told = False
            for step in [*steps, None]:
                if step is None:
                    taken = outbox.take()
                    wanted = {EVERYTHING} if EVERYTHING in gathered or len(gathered) > 4 else gathered
                    assert sorted(taken) == sorted(wanted)
                    gathered, told = set(), False
                else:
                    gathered.add(step)
                    assert outbox.put(step) is not told
                    told = True


class TestNoLayer:
    @pytest.mark.parametrize("configured", [{}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}])
    def test_hints_are_dropped_and_no_thread_stays(self, start: Start, configured: dict[str, Any]) -> None:
        with override_settings(CHANNEL_LAYERS=configured):
            here = start(configured_layer)
            here.wakeups.listen()
            here.send("stream:1")
            eventually(lambda: not threads(), "the thread ends")
            here.wakeups.listen()
            here.send("stream:2")
            assert threads() == []
            assert not here.wakeups.connected
        assert here.heard == []

    def test_a_project_need_not_know_the_setting(self) -> None:
        with override_settings():
            del settings.CHANNEL_LAYERS
            assert configured_layer() is None

    def test_a_layer_that_reaches_other_processes_is_an_instance_of_our_own(self) -> None:
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": f"{__name__}.Elsewhere"}}):
            layer = configured_layer()
            assert type(layer) is Elsewhere
            assert layer is not get_channel_layer()
            assert configured_layer() is not layer

    def test_a_subclass_of_the_in_memory_layer_reaches_no_other_process_either(self) -> None:
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": f"{__name__}.InMemory"}}):
            assert configured_layer() is None

    def test_a_layer_that_cannot_be_made_is_logged_once_and_nothing_else_happens(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "nowhere.Layer"}}):
            here = start(configured_layer)
            here.send("stream:1")
            eventually(lambda: not threads() and caplog.records, "the thread ends")
            here.send("stream:2")
            assert threads() == []
        assert len(lines(caplog)) == 1
        assert not here.wakeups.connected

    def test_where_no_thread_can_be_started_hints_are_dropped_until_one_can(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread at interpreter shutdown")

        here, there = start(), start().listen()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            here.send("stream:1")
            here.wakeups.listen()
        here.listen()
        here.send("stream:2")
        there.hears("stream:2")
        assert broker.sent == [["stream:2"]]


class Elsewhere(BaseChannelLayer):  # type: ignore[misc] # channels has no types
    """A layer as a project may have one."""


class InMemory(InMemoryChannelLayer):  # type: ignore[misc] # channels has no types
    """A layer as a project may have one."""


class TestBreaker:
    def test_a_send_that_fails_opens_it_and_what_is_sent_then_is_dropped(
        self, start: Start, broker: Broker, never: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        here = start()
        broker.fail("group_send")
        here.send("stream:1")
        eventually(lambda: here.heard, "the breaker opens")
        assert not here.wakeups.connected
        broker.mend()
        for number in range(100):
            here.send(f"stream:{number}")
        assert here.wakeups._station.get().outbox.take() == []
        assert here.heard == [LOOK_AT_ALL]
        assert broker.sent == []
        assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["WARNING"]
        assert "ConnectionError" in caplog.text

    def test_when_it_closes_the_others_look_at_everything_and_hints_leave_again(
        self, start: Start, broker: Broker, soon: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, LOGGER)
        here, there = start(), start().listen()
        broker.fail("group_send")
        here.send("stream:1")
        eventually(lambda: broker.count("group_send") > 3, "it is tried again and again")
        assert not here.wakeups.connected
        broker.mend()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        here.send("stream:2")
        there.hears("stream:2")
        assert broker.sent == [[EVERYTHING], ["stream:2"]]
        assert there.heard == [LOOK_AT_ALL, LOOK_AT_ALL, frozenset({"stream:2"})]
        assert here.heard == [LOOK_AT_ALL]
        assert len(lines(caplog)) == 2

    def test_a_broker_that_never_answers_holds_nobody_up(self, start: Start, broker: Broker, hasty: None) -> None:
        here = start()
        broker.stall("group_send")
        here.send("stream:1")
        with bounded("sending while the broker is silent"):
            for number in range(wakeups.MAX_GATHERED * 2):
                here.send(f"stream:{number}")
        eventually(lambda: here.heard == [LOOK_AT_ALL], "the breaker opens")
        assert not here.wakeups.connected
        with bounded("stop()"):
            here.wakeups.stop()
        assert broker.sent == []

    @pytest.mark.parametrize("operation", ["new_channel", "group_add", "echo", "receive", "received"])
    def test_it_opens_on_a_failure_of_whatever_kind_and_all_is_made_anew(
        self, start: Start, broker: Broker, soon: None, operation: str
    ) -> None:
        here, there = start(), start()
        broker.fail(operation)
        here.wakeups.listen()
        eventually(lambda: broker.count(operation) > 2, "it is tried again and again")
        assert here.heard == [LOOK_AT_ALL]
        assert not here.wakeups.connected
        broker.mend()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        there.send("stream:1")
        here.hears("stream:1")
        eventually(lambda: len(broker.members) == 1, "the channels of before are taken out of the group")

    @pytest.mark.parametrize("operation", ["new_channel", "group_add", "echo"])
    def test_it_opens_when_joining_is_never_answered(
        self, start: Start, broker: Broker, hasty: None, operation: str
    ) -> None:
        here, there = start(), start()
        broker.stall(operation)
        here.wakeups.listen()
        eventually(lambda: here.heard, "the breaker opens")
        broker.mend()
        here.listen()
        there.send("stream:1")
        here.hears("stream:1")

    def test_it_opens_when_a_process_no_longer_hears_itself(
        self, start: Start, broker: Broker, soon: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection can be dead without anybody telling: sending works, and nothing comes."""
        monkeypatch.setattr(wakeups, "ECHO_TIMEOUT", 0.1)
        monkeypatch.setattr(wakeups, "RENEW_SECONDS", 0.01)
        here = start().listen()
        first = set(broker.members)
        broker.copies = lambda at: 0
        eventually(lambda: here.looks_at_all >= 2 and not here.wakeups.connected, "the breaker opens")
        broker.copies = lambda at: 1
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        eventually(lambda: len(broker.members) == 1 and not first & set(broker.members), "it has another channel")

    def test_a_layer_that_cancels_its_caller_has_failed(self, start: Start, broker: Broker, soon: None) -> None:
        here, there = start().listen(), start()
        broker.fail("received", error=asyncio.CancelledError())
        there.send("stream:1")
        eventually(lambda: here.looks_at_all == 2, "the breaker opens")
        broker.mend()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        there.send("stream:2")
        here.hears("stream:2")

    def test_a_process_looks_at_everything_when_it_fails_and_again_when_it_is_back(
        self, start: Start, broker: Broker, soon: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, LOGGER)
        here, there = start().listen(), start()
        broker.fail("received", "new_channel")
        there.send("stream:1")
        eventually(lambda: broker.count("new_channel") > 4, "it is tried again and again")
        assert here.heard == [LOOK_AT_ALL] * 2
        broker.mend()
        eventually(lambda: here.looks_at_all == 3, "the process is back")
        assert len(lines(caplog)) == 2

    def test_a_hint_that_is_sent_while_the_breaker_is_about_to_close_is_not_lost(
        self, start: Start, broker: Broker, soon: None
    ) -> None:
        """Whoever looked at everything a moment before would miss it."""
        here, there = start(), start().listen()
        broker.fail("group_send")
        here.send("stream:1")
        eventually(lambda: here.heard, "the breaker opens")
        broker.stall("group_send")
        before = broker.count("group_send")
        broker._failing.clear()
        eventually(lambda: broker.count("group_send") > before, "it is tried again")
        here.send("stream:2")
        broker.mend()
        there.hears("stream:2")

    def test_who_listens_while_it_is_open_listens_when_it_closes(
        self, start: Start, broker: Broker, soon: None
    ) -> None:
        here, there = start(), start()
        broker.fail("group_send")
        here.send("stream:1")
        eventually(lambda: here.heard, "the breaker opens")
        here.wakeups.listen()
        broker.mend()
        eventually(lambda: here.wakeups.connected and broker.members, "the process listens")
        there.send("stream:2")
        here.hears("stream:2")

    def test_operations_that_do_not_even_end_when_they_are_cancelled_hold_nobody_up(
        self, start: Start, broker: Broker, hasty: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(background, "ROUND_SECONDS", 0.02)
        here = start()
        broker.stall("group_send", stubborn=True)
        here.send("stream:1")
        eventually(lambda: broker.count("group_send") > 2, "it is tried again")
        with bounded("stop()"):
            here.wakeups.stop()
        eventually(lambda: not threads(), "the threads end")

    def test_it_is_tried_ever_more_slowly(self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        waits = waits_of(monkeypatch)
        broker.fail("group_send")
        start().send("stream:1")
        eventually(lambda: len(waits) >= 8, "it is tried again and again")
        assert waits[:8] == [1, 2, 4, 8, 16, 30, 30, 30]

    def test_a_link_that_breaks_soon_after_it_was_made_counts_as_another_failure(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = waits_of(monkeypatch)
        broker.fail("received")
        start().wakeups.listen()
        eventually(lambda: len(waits) >= 3, "it is tried again and again")
        assert waits[:3] == [1, 2, 4]

    def test_after_a_while_without_failures_the_next_one_is_the_first_again(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = waits_of(monkeypatch)
        monkeypatch.setattr(wakeups, "STEADY_SECONDS", 0.0)
        broker.fail("received")
        start().wakeups.listen()
        eventually(lambda: len(waits) >= 3, "it is tried again and again")
        assert waits[:3] == [1, 1, 1]

    def test_many_failures_leave_neither_threads_nor_members(
        self, start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = waits_of(monkeypatch)
        here = start()
        broker.fail("received")
        here.wakeups.listen()
        eventually(lambda: len(waits) >= 30, "it breaks again and again")
        assert len(link_of(here)._left) == wakeups.MAX_LEFT
        broker.mend()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        eventually(lambda: len(threads()) == 1, "the broken links' threads end")
        eventually(lambda: not link_of(here)._left, "all channels of broken links are taken out of the group")

    def test_where_no_thread_can_be_started_for_the_next_link_whoever_sends_next_starts_one(
        self, start: Start, broker: Broker, soon: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        here = start().listen()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            broker.fail("received")
            broker.inject({})
            eventually(lambda: not threads(), "the link breaks and none follows")
        broker.mend()
        here.send("stream:1")
        eventually(lambda: here.looks_at_all == 3 and here.wakeups.connected, "the process listens again")


def waits_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each next link was to wait; it does not."""
    waits: list[float] = []
    successor = Link.successor

    def at_once(link: Link, wait: float) -> Link:
        waits.append(wait)
        following = successor(link, wait)
        following._wait = 0.001
        return following

    monkeypatch.setattr(Link, "successor", at_once)
    return waits


def link_of(process: Process) -> Link:
    link = process.wakeups._station.get()._link
    assert link is not None
    return link


class TestStop:
    def test_a_process_that_stops_leaves_the_group_and_ends_its_thread(self, start: Start, broker: Broker) -> None:
        here, there = start().listen(), start().listen()
        here.wakeups.stop()
        assert len(broker.members) == 1
        assert len(threads()) == 1
        assert not here.wakeups.connected
        there.send("stream:1")
        eventually(lambda: broker.sent, "the hint leaves")
        assert here.heard == [LOOK_AT_ALL]

    def test_it_may_be_stopped_twice_or_before_it_began(self, start: Start) -> None:
        here = start()
        here.wakeups.stop()
        here.listen()
        here.wakeups.stop()
        here.wakeups.stop()
        assert threads() == []

    def test_it_may_be_stopped_while_it_waits_to_try_again(self, start: Start, broker: Broker, never: None) -> None:
        here = start()
        broker.fail("group_send")
        here.send("stream:1")
        eventually(lambda: here.heard, "the breaker opens")
        here.wakeups.stop()
        eventually(lambda: not threads(), "the threads end")
        broker.mend()
        here.send("stream:2")
        eventually(lambda: broker.sent == [["stream:2"]], "the next use starts anew, with the breaker closed")

    def test_a_process_may_listen_again(self, start: Start) -> None:
        here, there = start().listen(), start()
        here.wakeups.stop()
        here.listen()
        there.send("stream:1")
        here.hears("stream:1")

    @pytest.mark.parametrize("trouble", [Broker.stall, Broker.fail])
    def test_a_broker_that_does_not_answer_to_the_farewell_holds_nobody_up(
        self,
        start: Start,
        broker: Broker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        trouble: Callable[[Broker, str], None],
    ) -> None:
        monkeypatch.setattr(wakeups, "FAREWELL_SECONDS", 0.05)
        here = start().listen()
        trouble(broker, "group_discard")
        with bounded("stop()"):
            here.wakeups.stop()
        assert threads() == []
        assert broker.count("group_discard") == 1
        assert lines(caplog) == []

    def test_a_link_that_breaks_after_it_was_stopped_opens_no_breaker(self, start: Start, broker: Broker) -> None:
        here = start().listen()
        link = link_of(here)
        here.wakeups.stop()
        here.wakeups._station.get().down(link, ConnectionError())
        assert here.heard == [LOOK_AT_ALL]
        here.send("stream:1")
        broker.has_sent("stream:1")

    def test_whoever_hears_a_hint_may_stop_it(self, start: Start) -> None:
        class Stopping(Process):
            def hear(self, at: frozenset[str]) -> None:
                super().hear(at)
                self.wakeups.stop()

        there = start().listen()
        here = Stopping(there.wakeups._station.get().layer)
        here.wakeups.listen()
        eventually(lambda: here.heard and len(threads()) == 1, "the thread ends")
        assert here.heard == [LOOK_AT_ALL]

    def test_a_failure_while_it_stops_starts_nothing(self, start: Start, broker: Broker, soon: None) -> None:
        class Stopping(Process):
            def hear(self, at: frozenset[str]) -> None:
                super().hear(at)
                self.wakeups.stop()

        broker.fail("group_send")
        here = Stopping(lambda: Layer(broker))
        here.send("stream:1")
        eventually(lambda: here.heard and not threads(), "the thread ends")
        broker.mend()
        here.send("stream:2")
        eventually(lambda: broker.sent == [["stream:2"]], "the next use starts anew")
        here.wakeups.stop()


# Real brokers.

LAYERS = {"core": "channels_redis.core.RedisChannelLayer", "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer"}


class Redis(NamedTuple):
    url: str
    host: str
    port: int

    def through(self, port: int) -> str:
        """The URL by way of a gate on this machine."""
        parts = urlsplit(self.url)
        who, at, _where = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{who}{at}127.0.0.1:{port}").geturl()


@pytest.fixture
def redis() -> Redis:
    url = os.environ.get("REDIS_URL")
    if not url:
        pytest.skip("REDIS_URL is not set")
    client = pytest.importorskip("redis", reason="the driver for REDIS_URL is not installed")
    pytest.importorskip("channels_redis", reason="the layer for REDIS_URL is not installed")
    try:
        with client.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2, retry=None) as connection:
            connection.ping()
    except client.RedisError as error:
        pytest.skip(f"Redis at REDIS_URL does not answer ({type(error).__name__})")
    parts = urlsplit(url)
    return Redis(url, parts.hostname or "127.0.0.1", parts.port or 6379)


@pytest.fixture
def prefix(redis: Redis) -> Iterator[str]:
    """A prefix of the test's own for what it writes, so that nobody else hears it."""
    client = pytest.importorskip("redis")
    prefix = f"mcp-test-{secrets.token_hex(6)}"
    yield prefix
    with client.Redis.from_url(redis.url) as connection:
        for key in connection.scan_iter(f"{prefix}*"):
            connection.delete(key)


@pytest.fixture
def gate(redis: Redis) -> Iterator[Gate]:
    with Gate((redis.host, redis.port)) as gate:
        yield gate


@pytest.fixture(params=sorted(LAYERS))
def backend(request: pytest.FixtureRequest) -> str:
    return LAYERS[request.param]


@pytest.fixture
def configure(prefix: str, backend: str, start: Start) -> Callable[[str], Start]:
    """Processes with a channel layer on the Redis at a URL."""

    def configure(url: str) -> Start:
        return lambda: start(lambda: import_string(backend)(hosts=[url], prefix=prefix))

    return configure


@pytest.fixture
def impatient(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for a broker waits less long."""
    monkeypatch.setattr(wakeups, "FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(wakeups, "ECHO_TIMEOUT", 0.5)
    monkeypatch.setattr(wakeups, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(background, "ROUND_SECONDS", 0.2)


class TestRedis:
    def test_hints_reach_the_other_processes(self, redis: Redis, prefix: str, backend: str, start: Start) -> None:
        configured = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [redis.url], "prefix": prefix}}}
        with override_settings(CHANNEL_LAYERS=configured):
            here, there, sender = (start(configured_layer) for _process in range(3))
            here.listen()
            there.listen()
            wanted = [f"stream:{number}" for number in range(2_000)]
            sender.send(*wanted)
            here.hears(*wanted)
            there.hears(*wanted)
            here.send("session:1")
            there.hears("session:1")
        assert not any("session:1" in at for at in here.heard)

    def test_redis_goes_away_and_comes_back(
        self, redis: Redis, gate: Gate, configure: Callable[[str], Start], impatient: None
    ) -> None:
        start, beyond = configure(redis.url), configure(redis.through(gate.port))
        here, there = beyond().listen(), start().listen()
        gate.refuse()
        here.send("stream:1")
        eventually(lambda: not here.wakeups.connected, "the breaker opens")
        looks = there.looks_at_all
        gate.restore()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        eventually(lambda: there.looks_at_all > looks, "the other process looks")
        here.gets_through_to(there, "stream:2")
        there.gets_through_to(here, "stream:3")

    def test_redis_is_silent_for_a_while(
        self, redis: Redis, gate: Gate, configure: Callable[[str], Start], impatient: None
    ) -> None:
        start, beyond = configure(redis.url), configure(redis.through(gate.port))
        here, there = beyond().listen(), start().listen()
        gate.freeze()
        with bounded("sending while Redis is silent"):
            for number in range(wakeups.MAX_GATHERED * 2):
                here.send(f"stream:{number}")
        eventually(lambda: not here.wakeups.connected, "the breaker opens")
        gate.thaw()
        eventually(lambda: here.wakeups.connected, "the breaker closes")
        here.gets_through_to(there, "session:2")
        there.gets_through_to(here, "session:3")

    def test_connections_that_stay_silent_for_ever_are_noticed_by_who_only_listens(
        self, redis: Redis, gate: Gate, configure: Callable[[str], Start], impatient: None
    ) -> None:
        """Something between here and there has forgotten them, and says so to neither."""
        start, beyond = configure(redis.url), configure(redis.through(gate.port))
        here, there = beyond().listen(), start()
        gate.freeze()
        gate.forget()
        eventually(lambda: here.looks_at_all >= 3, "the process has noticed and connected again")
        there.gets_through_to(here, "stream:1")

    def test_a_port_that_accepts_and_never_answers_holds_nobody_up(
        self, redis: Redis, gate: Gate, configure: Callable[[str], Start], impatient: None
    ) -> None:
        gate.freeze()
        here = configure(redis.through(gate.port))()
        with bounded("beginning while Redis is silent"):
            here.wakeups.listen()
            here.send("stream:1")
        eventually(lambda: here.heard == [LOOK_AT_ALL], "the breaker opens")
        assert not here.wakeups.connected
        with bounded("stop()"):
            here.wakeups.stop()
        eventually(lambda: not threads(), "the threads end")

    def test_a_process_that_stops_is_no_longer_written_to(
        self, redis: Redis, prefix: str, configure: Callable[[str], Start]
    ) -> None:
        client = pytest.importorskip("redis")
        here, there = configure(redis.url)().listen(), configure(redis.url)().listen()
        here.wakeups.stop()
        with client.Redis.from_url(redis.url) as connection:
            members = (
                connection.zcard(f"{prefix}:group:{GROUP}")
                or connection.pubsub_numsub(f"{prefix}__group__{GROUP}")[0][1]
            )
        assert members == 1
        there.wakeups.stop()


class TestIdle:
    def test_a_process_that_hears_nothing_for_long_stays_connected(
        self, redis: Redis, prefix: str, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The layer blocks in Redis for as long as the driver waits for an answer, or longer."""
        core = pytest.importorskip("channels_redis.core")
        pops: Counter[str] = Counter()

        class Counting(core.RedisChannelLayer):  # type: ignore[misc, name-defined] # channels has no types
            async def _brpop_with_clean(self, *args: Any, **kwargs: Any) -> Any:
                pops["begun"] += 1
                return await super()._brpop_with_clean(*args, **kwargs)

        monkeypatch.setattr(wakeups, "BLOCK_SECONDS", 0.4)
        monkeypatch.setattr(sys.modules[__name__], "Elsewhere", Counting)
        config = {"hosts": [{"address": redis.url, "socket_timeout": 1}], "prefix": prefix}
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": f"{__name__}.Elsewhere", "CONFIG": config}}):
            here = start(configured_layer).listen()
            begun = pops["begun"]
            eventually(lambda: pops["begun"] > begun + 3, "the process has waited in vain some times")
        assert here.wakeups.connected
        assert here.heard == [LOOK_AT_ALL]


FORK = """
import os, sys, threading, time
from django.conf import settings
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": sys.argv[1], "CONFIG": {
    "hosts": [sys.argv[2]], "prefix": sys.argv[3]}}})
from mcp_django.wakeups import Wakeups

heard = set()
wakeups = Wakeups(heard.update)

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, heard
        time.sleep(0.01)

wakeups.listen()
until(lambda: wakeups.connected and "*" in heard)
child = os.fork()
if child == 0:
    heard.clear()
    good = not wakeups.connected
    wakeups.listen()
    until(lambda: wakeups.connected and "*" in heard)
    wakeups.send("stream:child")
    until(lambda: "stream:parent" in heard)
    wakeups.stop()
    os._exit(0 if good and "stream:child" not in heard else 1)
until(lambda: "stream:child" in heard)
wakeups.send("stream:parent")
_pid, status = os.waitpid(child, 0)
assert wakeups.connected
wakeups.stop()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_parent_and_child_hear_each_other_after_a_fork(redis: Redis, prefix: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, backend, redis.url, prefix],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
