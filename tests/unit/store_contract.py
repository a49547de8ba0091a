"""What every session store promises, whatever keeps its sessions.

A store is proven by a subclass of :class:`StoreContract` whose fixture ``store`` makes one.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from mcp_django import jsonrpc
from mcp_django.exceptions import HandlerError, SessionNotFound
from mcp_django.processes import this_process
from mcp_django.store import SessionRecord, SessionStore
from tests.unit import records
from tests.unit.state_contract import UNKNOWN, StateContract, add_one
from tests.unit.waiting import SECONDS, STEP

AGO = timedelta(days=15)

ODD_PARAMS = [
    {"clientInfo": {"name": "Ünïcödé 日本語 😀"}},
    {"clientInfo": {"name": "nul \x00 and \x1f, \u2028 and \ufeff"}},
    {"clientInfo": {"name": "half of a pair \ud83d"}},
    {"number": 10**300, "small": 1e-300, "quotes": "\"'\\%s{}", "": None, "deep": [[[[{}]]]]},
]


async def created(store: SessionStore, **changes: Any) -> SessionRecord:
    """A record that the store has."""
    record = records.record(**changes)
    await store.create(record)
    return record


async def loaded(store: SessionStore, digest: str) -> SessionRecord:
    record = await store.load(digest)
    assert record is not None
    return record


async def whole(store: SessionStore, digest: str) -> tuple[Any, ...]:
    """Everything that the store tells about a session."""
    return await store.head(digest), await store.load(digest)


MARKS: dict[str, Callable[[SessionStore, str], Awaitable[bool]]] = {
    "mark_initialized": lambda store, digest: store.mark_initialized(digest, timezone.now()),
    "set_log_level": lambda store, digest: store.set_log_level(digest, "debug"),
    "subscribe": lambda store, digest: store.change_subscription(digest, "lib://a", True),
    "unsubscribe": lambda store, digest: store.change_subscription(digest, "lib://a", False),
    "mark_restored": lambda store, digest: store.mark_restored(digest, uuid.uuid4(), "print"),
    "replace_state": lambda store, digest: store.replace_state(digest, "{}", 0),
}

marks = pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)


@pytest.mark.anyio
class StoreContract(StateContract):
    """The promises. A subclass defines the fixture ``store``."""

    missing = SessionNotFound

    @pytest.fixture
    def states(self, store: SessionStore) -> SessionStore:
        return store

    async def made(self, states: SessionStore, now: datetime | None = None) -> str:
        return (await created(states, now=now or timezone.now())).digest

    async def is_ended(self, states: SessionStore, digest: str) -> None:
        assert await states.end(digest, "by the test", "terminated") is True

    # Create, find, load

    async def test_a_created_session_is_found_as_it_was_made(self, store: SessionStore) -> None:
        record = await created(store, principal="user:1", tools_fingerprint="print", log_level="info")
        assert await store.head(record.digest) == record.head
        assert await store.load(record.digest) == record

    @pytest.mark.parametrize("params", ODD_PARAMS, ids=["unicode", "control", "surrogate", "numbers"])
    async def test_initialize_params_come_back_as_they_came(self, store: SessionStore, params: dict[str, Any]) -> None:
        text = jsonrpc.canonical(params)
        record = await created(store, initialize_params_json=text)
        assert (await loaded(store, record.digest)).initialize_params_json == text

    async def test_an_unknown_session_is_none_and_nothing_happens_to_it(self, store: SessionStore) -> None:
        assert await store.head(UNKNOWN) is None
        assert await store.load(UNKNOWN) is None
        store.touch(UNKNOWN, timezone.now(), timezone.now())
        for mark in MARKS.values():
            assert await mark(store, UNKNOWN) is False
        assert await store.end(UNKNOWN, "reason", "terminated") is False
        with pytest.raises(SessionNotFound):
            await store.read_state(UNKNOWN)
        with pytest.raises(SessionNotFound):
            await store.change_state(UNKNOWN, add_one)
        assert await store.head(UNKNOWN) is None

    async def test_what_is_loaded_is_a_copy(self, store: SessionStore) -> None:
        record = await created(store)
        (await loaded(store, record.digest)).principal = "somebody else"
        record.server = "another"
        again = await loaded(store, record.digest)
        assert (again.principal, again.server) == ("", "default")

    async def test_many_sessions_asked_for_at_once_are_not_mixed_up(self, store: SessionStore) -> None:
        made = await asyncio.gather(*(created(store, client_name=f"client {n}") for n in range(50)))
        found = await asyncio.gather(*(store.load(record.digest) for record in made))
        assert [record and record.client_name for record in found] == [f"client {n}" for n in range(50)]
        heads = await asyncio.gather(*(store.head(record.digest) for record in [*made, *made]))
        assert heads == [record.head for record in [*made, *made]]

    async def test_the_heads_of_many_sessions_come_at_once_without_those_that_are_not_there(
        self, store: SessionStore
    ) -> None:
        made = [await created(store, principal=f"user:{number}") for number in range(5)]
        ended = await created(store)
        await store.end(ended.digest, "by the test", "terminated")
        found = await store.heads([*(record.digest for record in made), ended.digest, UNKNOWN])
        assert found == {record.digest: record.head for record in made} | {ended.digest: await store.head(ended.digest)}
        assert found[ended.digest].status == "terminated"

    async def test_of_no_sessions_there_are_no_heads(self, store: SessionStore) -> None:
        assert await store.heads([]) == {}
        assert await store.heads([UNKNOWN]) == {}

    async def test_heads_asked_for_by_several_at_once_are_each_ones_own(self, store: SessionStore) -> None:
        made = [await created(store) for _ in range(20)]
        wanted = [{record.digest for record in made[number : number + 5]} for number in range(15)]
        found = await asyncio.gather(*(store.heads(digests) for digests in wanted))
        assert [set(heads) for heads in found] == wanted

    # Quotas

    async def live_of(self, store: SessionStore, made: list[SessionRecord]) -> list[bool]:
        heads = await store.heads([record.digest for record in made])
        now = timezone.now()
        return [record.digest in heads and heads[record.digest].is_live(now) for record in made]

    @override_settings(MCP_DJANGO_MAX_PRINCIPAL_SESSIONS=3, MCP_DJANGO_MAX_ADDRESS_SESSIONS=2)
    @pytest.mark.parametrize(("principal", "limit"), [("user:1", 3), ("", 2)], ids=["principal", "address"])
    async def test_of_a_caller_with_too_many_sessions_the_one_unused_for_longest_ends(
        self, store: SessionStore, principal: str, limit: int
    ) -> None:
        start = timezone.now() - timedelta(hours=2)
        at = [start + timedelta(minutes=number) for number in range(limit + 2)]
        made = [
            await created(store, principal=principal, quota="caller", now=moment, initialized_at=moment)
            for moment in at[:limit]
        ]
        others = [await created(store, principal=principal, quota="another caller"), await created(store)]
        await self.touched(store, made[0].digest, at[-1], at[-1] + records.TTL)
        made.append(await created(store, principal=principal, quota="caller"))
        assert await self.live_of(store, made) == [True, False, *[True] * (limit - 1)]
        assert await self.live_of(store, others) == [True, True]

    @override_settings(MCP_DJANGO_MAX_ADDRESS_SESSIONS=2)
    async def test_one_that_was_left_half_open_goes_before_one_in_use(self, store: SessionStore) -> None:
        ago = timezone.now() - timedelta(hours=1)
        used = await created(store, quota="caller", now=ago, initialized_at=ago)
        half_open = await created(store, quota="caller", now=ago + timedelta(minutes=30))
        new = await created(store, quota="caller")
        assert await self.live_of(store, [used, half_open, new]) == [True, False, True]

    # Touch

    async def touched(self, store: SessionStore, digest: str, seen_at: Any, expires_at: Any) -> None:
        """Touch, and wait until it has been done: the store answers in order."""
        store.touch(digest, seen_at, expires_at)
        await store.mark_restored(digest, this_process(), "")

    async def test_a_touch_moves_last_use_and_expiry(self, store: SessionStore) -> None:
        record = await created(store)
        seen, expires = record.last_seen_at + timedelta(hours=1), record.expires_at + timedelta(hours=1)
        store.touch(record.digest, seen, expires)
        end = monotonic() + SECONDS
        while (after := await loaded(store, record.digest)).last_seen_at != seen:
            assert monotonic() < end, "the touch was not done"
            await asyncio.sleep(STEP)
        assert after == replace(record, last_seen_at=seen, expires_at=expires)

    async def test_a_touch_never_moves_back(self, store: SessionStore) -> None:
        record = await created(store)
        late, later = record.last_seen_at + timedelta(hours=1), record.expires_at + timedelta(hours=1)
        await self.touched(store, record.digest, late, later)
        for seconds in (0, 60):
            await self.touched(store, record.digest, late - timedelta(seconds=seconds), record.expires_at)
        after = await loaded(store, record.digest)
        assert (after.last_seen_at, after.expires_at) == (late, later)

    async def test_a_touch_leaves_other_sessions_alone(self, store: SessionStore) -> None:
        record, other = await created(store), await created(store)
        await self.touched(store, record.digest, timezone.now(), timezone.now() + AGO)
        assert await store.head(other.digest) == other.head

    # Marks

    async def test_initialized_is_kept_and_raises_the_epoch(self, store: SessionStore) -> None:
        record = await created(store)
        at = timezone.now()
        assert await store.mark_initialized(record.digest, at) is True
        after = await loaded(store, record.digest)
        assert (after.initialized_at, after.epoch) == (at, record.epoch + 1)

    async def test_the_log_level_is_kept_and_raises_the_epoch(self, store: SessionStore) -> None:
        record = await created(store)
        assert await store.set_log_level(record.digest, "warning") is True
        after = await loaded(store, record.digest)
        assert (after.log_level, after.epoch) == ("warning", record.epoch + 1)

    async def subscriptions(self, store: SessionStore, digest: str) -> list[str]:
        return list(json.loads((await loaded(store, digest)).subscriptions_json))

    async def test_subscriptions_are_kept_and_each_change_raises_the_epoch(self, store: SessionStore) -> None:
        record = await created(store)
        for uri in ("lib://a", "lib://b", "lib://ünï/{x}?y=1#z"):
            assert await store.change_subscription(record.digest, uri, True) is True
        assert await store.change_subscription(record.digest, "lib://b", False) is True
        assert await self.subscriptions(store, record.digest) == ["lib://a", "lib://ünï/{x}?y=1#z"]
        assert (await loaded(store, record.digest)).epoch == record.epoch + 4

    async def test_a_resource_is_subscribed_to_once_however_often_it_is_asked_for(self, store: SessionStore) -> None:
        record = await created(store)
        for _ in range(3):
            assert await store.change_subscription(record.digest, "lib://a", True) is True
        assert await self.subscriptions(store, record.digest) == ["lib://a"]
        for _ in range(2):
            assert await store.change_subscription(record.digest, "lib://a", False) is True
        assert await self.subscriptions(store, record.digest) == []

    async def test_uris_that_look_alike_are_different_resources(self, store: SessionStore) -> None:
        record = await created(store)
        uris = ["lib://a", "lib://A", "lib://a/", "lib://a ", "lib://\u00e4"]
        for uri in uris:
            await store.change_subscription(record.digest, uri, True)
        await store.change_subscription(record.digest, "lib://A", False)
        assert await self.subscriptions(store, record.digest) == [uri for uri in uris if uri != "lib://A"]

    async def test_subscriptions_of_one_session_leave_another_alone(self, store: SessionStore) -> None:
        record, other = await created(store), await created(store)
        await store.change_subscription(record.digest, "lib://a", True)
        assert await loaded(store, other.digest) == other

    @override_settings(MCP_DJANGO_MAX_SUBSCRIPTIONS=2)
    async def test_one_subscription_too_many_is_refused_and_changes_nothing(self, store: SessionStore) -> None:
        record = await created(store)
        await store.change_subscription(record.digest, "lib://a", True)
        await store.change_subscription(record.digest, "lib://b", True)
        before = await whole(store, record.digest)
        with pytest.raises(HandlerError, match="MCP_DJANGO_MAX_SUBSCRIPTIONS"):
            await store.change_subscription(record.digest, "lib://c", True)
        assert await whole(store, record.digest) == before
        # One that is there already is none too many, and one that goes makes room.
        assert await store.change_subscription(record.digest, "lib://a", True) is True
        assert await store.change_subscription(record.digest, "lib://b", False) is True
        assert await store.change_subscription(record.digest, "lib://c", True) is True
        assert await self.subscriptions(store, record.digest) == ["lib://a", "lib://c"]

    @override_settings(MCP_DJANGO_MAX_SUBSCRIPTIONS=5)
    async def test_of_subscriptions_that_come_at_once_no_more_are_kept_than_allowed(self, store: SessionStore) -> None:
        record = await created(store)
        outcomes = await asyncio.gather(
            *(store.change_subscription(record.digest, f"lib://{number}", True) for number in range(8)),
            return_exceptions=True,
        )
        assert [outcome is True or isinstance(outcome, HandlerError) for outcome in outcomes] == [True] * 8
        kept = [f"lib://{number}" for number, outcome in enumerate(outcomes) if outcome is True]
        assert sorted(await self.subscriptions(store, record.digest)) == kept
        assert len(kept) == 5

    async def test_subscriptions_that_come_at_once_lose_nothing(self, store: SessionStore) -> None:
        record = await created(store)
        await store.change_subscription(record.digest, "lib://gone", True)
        await asyncio.gather(
            *(store.change_subscription(record.digest, f"lib://{number}", True) for number in range(50)),
            store.change_subscription(record.digest, "lib://gone", False),
        )
        assert sorted(await self.subscriptions(store, record.digest)) == sorted(f"lib://{n}" for n in range(50))

    async def test_restores_are_counted_and_leave_the_epoch(self, store: SessionStore) -> None:
        record = await created(store)
        process = uuid.uuid4()
        assert await store.mark_restored(record.digest, uuid.uuid4(), "old") is True
        assert await store.mark_restored(record.digest, process, "new") is True
        after = await loaded(store, record.digest)
        assert (after.restore_count, after.last_process, after.tools_fingerprint) == (2, process, "new")
        assert after.epoch == record.epoch

    # End

    @pytest.mark.parametrize("status", ["terminated", "expired"])
    async def test_an_ended_session_is_still_known_and_no_longer_live(self, store: SessionStore, status: str) -> None:
        record = await created(store)
        assert await store.end(record.digest, "by the test", status) is True
        head = await store.head(record.digest)
        assert head is not None
        assert head.status == status
        assert not head.is_live(timezone.now())
        assert head.epoch > record.epoch

    async def test_a_session_ends_once(self, store: SessionStore) -> None:
        record = await created(store)
        ends = await asyncio.gather(*(store.end(record.digest, "by the test", "terminated") for _ in range(10)))
        assert sorted(ends) == [False] * 9 + [True]
        assert await store.end(record.digest, "again", "expired") is False
        assert (await loaded(store, record.digest)).status == "terminated"

    @marks
    async def test_nothing_written_later_brings_an_ended_session_back(
        self, store: SessionStore, mark: Callable[[SessionStore, str], Awaitable[bool]]
    ) -> None:
        record = await created(store)
        await store.end(record.digest, "by the test", "terminated")
        before = await whole(store, record.digest)
        assert await mark(store, record.digest) is False
        assert await whole(store, record.digest) == before

    async def test_a_late_touch_does_not_bring_an_ended_session_back(self, store: SessionStore) -> None:
        record = await created(store)
        await store.end(record.digest, "by the test", "terminated")
        before = await whole(store, record.digest)
        await self.touched(store, record.digest, timezone.now() + AGO, timezone.now() + 2 * AGO)
        assert await whole(store, record.digest) == before

    # Expiry

    async def test_a_session_past_its_expiry_is_no_longer_live(self, store: SessionStore) -> None:
        record = await created(store, now=timezone.now() - AGO)
        head = await store.head(record.digest)
        assert head is not None
        assert not head.is_live(timezone.now())

    async def test_a_session_past_its_expiry_is_not_touched_awake(self, store: SessionStore) -> None:
        record = await created(store, now=timezone.now() - AGO)
        await self.touched(store, record.digest, timezone.now(), timezone.now() + AGO)
        head = await store.head(record.digest)
        assert head is not None
        assert head.expires_at == record.expires_at

    @marks
    async def test_a_session_past_its_expiry_takes_no_marks(
        self, store: SessionStore, mark: Callable[[SessionStore, str], Awaitable[bool]]
    ) -> None:
        record = await created(store, now=timezone.now() - AGO)
        assert await mark(store, record.digest) is False

    async def test_a_session_past_its_expiry_can_be_marked_expired(self, store: SessionStore) -> None:
        record = await created(store, now=timezone.now() - AGO)
        assert await store.end(record.digest, "too long idle", "expired") is True
        assert (await loaded(store, record.digest)).status == "expired"

    async def test_the_state_leaves_the_epoch(self, store: SessionStore) -> None:
        record = await created(store)
        await store.change_state(record.digest, add_one)
        head = await store.head(record.digest)
        assert head is not None
        assert head.epoch == record.epoch

    # Processes

    async def test_a_process_that_nobody_knows_is_not_alive(self, store: SessionStore) -> None:
        assert await store.process_alive(uuid.uuid4()) is False

    async def test_says_whether_it_outlives_the_process(self, store: SessionStore) -> None:
        assert store.durable in (True, False)
