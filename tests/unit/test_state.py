"""`ctx.state`, over each store: plain JSON, nothing lost, and errors that say what to do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings

from mcp_django import threads
from mcp_django.exceptions import SessionNotFound, StateConflict, StateInvalid, StateTooLarge
from mcp_django.jsonrpc import MAX_DEPTH
from mcp_django.memory import MemoryStore
from mcp_django.state import MODIFY_ATTEMPTS, State, state_text
from mcp_django.store import ORMStore, SessionStore
from mcp_django.testing import inline
from tests.unit import records
from tests.unit.waiting import bounded

METHODS = ["all", "get", "set", "update", "pop", "increment", "modify"]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "all": (),
    "get": ("key",),
    "set": ("key", 1),
    "update": ({"key": 1},),
    "pop": ("key",),
    "increment": ("key",),
    "modify": (lambda state: None,),
}


@pytest.fixture(
    params=[
        "memory_store",
        pytest.param(
            "orm_store",
            marks=pytest.mark.django_db(
                transaction=True, available_apps=["django.contrib.contenttypes", "django.contrib.auth", "mcp_django"]
            ),
        ),
    ]
)
def store(request: pytest.FixtureRequest) -> SessionStore:
    found: SessionStore = request.getfixturevalue(request.param)
    return found


async def new_state(store: SessionStore) -> State:
    """The state of a new session."""
    record = records.record()
    await store.create(record)
    return State(store, record.digest)


def nested(depth: int, make: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.anyio
class TestAsync:
    async def test_a_new_session_has_nothing_in_it(self, store: SessionStore) -> None:
        state = await new_state(store)
        assert await state.aall() == {}
        assert await state.aget("key") is None
        assert await state.aget("key", "default") == "default"
        assert await state.apop("key", "default") == "default"

    async def test_what_was_set_is_there(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("cart", {"books": ["978-3-16"], "total": 12.5})
        await state.aupdate({"name": "Ünïcödé 😀", "": None})
        assert await state.aall() == {
            "cart": {"books": ["978-3-16"], "total": 12.5},
            "name": "Ünïcödé 😀",
            "": None,
        }
        assert await state.aget("", "default") is None

    async def test_what_was_popped_is_gone(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("key", [1])
        assert await state.apop("key") == [1]
        assert await state.apop("key") is None
        assert await state.aall() == {}

    async def test_increment_starts_at_zero_and_takes_any_step(self, store: SessionStore) -> None:
        state = await new_state(store)
        assert await state.aincrement("n") == 1
        assert await state.aincrement("n", 5) == 6
        assert await state.aincrement("n", -0.5) == 5.5
        assert await state.aget("n") == 5.5

    @pytest.mark.parametrize("value", ["1", True, None, [1], {}])
    async def test_increment_of_what_is_no_number_says_what_it_found(self, store: SessionStore, value: Any) -> None:
        state = await new_state(store)
        await state.aset("n", value)
        with pytest.raises(StateInvalid, match=type(value).__name__) as caught:
            await state.aincrement("n")
        assert "'n'" in str(caught.value)
        assert await state.aget("n") == value

    async def test_increment_never_makes_what_json_has_not(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("n", 1.7e308)
        with pytest.raises(StateInvalid):
            await state.aincrement("n", 1.7e308)
        with pytest.raises(StateInvalid):
            await state.aincrement("n", float("nan"))
        assert await state.aget("n") == 1.7e308

    async def test_increments_that_come_at_once_lose_nothing(self, store: SessionStore) -> None:
        state = await new_state(store)
        assert sorted(await asyncio.gather(*(state.aincrement("n") for _ in range(50)))) == list(range(1, 51))

    async def test_modify_edits_in_place_and_returns_what_the_function_does(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("books", ["a"])

        def add(values: dict[str, Any]) -> int:
            values["books"].append("b")
            return len(values["books"])

        assert await state.amodify(add) == 2
        assert await state.aget("books") == ["a", "b"]

    async def test_modifications_that_come_at_once_lose_nothing(self, store: SessionStore) -> None:
        state = await new_state(store)

        def add(values: dict[str, Any]) -> None:
            values["n"] = values.get("n", 0) + 1

        await asyncio.gather(*(state.amodify(add) for _ in range(8)))
        assert await state.aget("n") == 8

    async def test_a_modification_that_raises_changes_nothing(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("n", 1)

        def mistaken(values: dict[str, Any]) -> None:
            values["n"] = 2
            raise LookupError("no such book")

        with pytest.raises(LookupError, match="no such book"):
            await state.amodify(mistaken)
        assert await state.aget("n") == 1

    async def test_what_is_stored_is_not_what_the_handler_goes_on_with(self, store: SessionStore) -> None:
        state = await new_state(store)
        books = ["a"]
        await state.aset("books", books)
        books.append("b")
        (await state.aget("books")).append("c")
        assert await state.aget("books") == ["a"]

    async def test_of_an_ended_session_is_gone_for_every_method(self, store: SessionStore) -> None:
        record = records.record()
        await store.create(record)
        await store.end(record.digest, "by the test", "terminated")
        state = State(store, record.digest)
        for name in METHODS:
            with pytest.raises(SessionNotFound):
                await getattr(state, f"a{name}")(*ARGUMENTS[name])


@pytest.mark.anyio
class TestLimits:
    @override_settings(MCP_DJANGO_MAX_STATE_BYTES=200)
    async def test_what_would_grow_too_large_says_how_large_and_what_to_do(self, store: SessionStore) -> None:
        state = await new_state(store)
        await state.aset("a", "x" * 100)
        changes: list[Coroutine[Any, Any, Any]] = [
            state.aset("b", "x" * 100),
            state.aset("b", "x" * 1000),
            state.aupdate({"b": "x" * 100}),
            state.amodify(lambda values: values.update(b="x" * 100)),
        ]
        for change in changes:
            with pytest.raises(StateTooLarge, match=r"\d{3,} bytes, 200 are allowed .MCP_DJANGO_MAX_STATE_BYTES"):
                await change
        assert await state.aall() == {"a": "x" * 100}

    @override_settings(MCP_DJANGO_MAX_STATE_BYTES=100)
    async def test_a_state_that_became_too_large_by_a_new_limit_can_be_made_smaller(self, store: SessionStore) -> None:
        with override_settings(MCP_DJANGO_MAX_STATE_BYTES=1000):
            state = await new_state(store)
            await state.aset("a", "x" * 500)
        with pytest.raises(StateTooLarge):
            await state.aset("b", 1)
        await state.apop("a")
        await state.aset("b", 1)
        assert await state.aall() == {"b": 1}

    @pytest.mark.parametrize(
        "value",
        [object(), b"bytes", {1, 2}, float("nan"), float("-inf"), 10**5000, [[{}, set()]]],
        ids=["object", "bytes", "set", "nan", "infinity", "integer of 5000 digits", "nested"],
    )
    async def test_a_value_that_is_not_json_is_refused(self, store: SessionStore, value: Any) -> None:
        state = await new_state(store)
        with pytest.raises(StateInvalid, match="plain JSON"):
            await state.aset("key", value)
        with pytest.raises(StateInvalid, match="plain JSON"):
            await state.amodify(lambda values: values.update(key=value))
        assert await state.aall() == {}

    async def test_a_value_that_contains_itself_is_refused(self, store: SessionStore) -> None:
        state = await new_state(store)
        endless: list[Any] = []
        endless.append(endless)
        with bounded("looking into a value that contains itself"), pytest.raises(StateInvalid):
            await state.aset("key", endless)

    @pytest.mark.parametrize("key", [1, None, True, ("a", "b"), b"key"])
    async def test_a_key_that_is_no_string_is_refused(self, store: SessionStore, key: Any) -> None:
        state = await new_state(store)
        with pytest.raises(StateInvalid, match="keys"):
            await state.aset(key, 1)
        with pytest.raises(StateInvalid, match="keys"):
            await state.amodify(lambda values: values.update({key: 1}))
        assert await state.aall() == {}

    async def test_a_key_further_in_that_is_no_string_is_refused_as_well(self, store: SessionStore) -> None:
        """JSON would make strings of them, and the handler would not find what it put there."""
        state = await new_state(store)
        with pytest.raises(StateInvalid, match="keys"):
            await state.aset("loans", {17: "2026-01-01"})

    @pytest.mark.parametrize("make", [lambda value: [value], lambda value: {"a": value}], ids=["list", "dict"])
    async def test_nesting_is_bounded(self, store: SessionStore, make: Callable[[Any], Any]) -> None:
        state = await new_state(store)
        await state.aset("key", nested(MAX_DEPTH - 1, make))
        with pytest.raises(StateInvalid, match=f"{MAX_DEPTH} levels"):
            await state.aset("key", nested(MAX_DEPTH, make))
        with pytest.raises(StateInvalid):
            await state.aset("key", nested(100_000, make))
        assert await state.aget("key") == nested(MAX_DEPTH - 1, make)

    async def test_tuples_count_as_the_lists_that_they_become(self, store: SessionStore) -> None:
        """Else a state is stored that every later change is refused for."""
        state = await new_state(store)
        with pytest.raises(StateInvalid, match=f"{MAX_DEPTH} levels"):
            await state.amodify(lambda values: values.update(key=nested(MAX_DEPTH, lambda value: (value,))))
        await state.aset("other", 1)

    def test_the_text_of_a_state_that_is_no_object_is_refused(self) -> None:
        with pytest.raises(StateInvalid):
            state_text([1])


class Contested(MemoryStore):
    """A store in which another process changes the state whenever somebody is about to."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        if self.times:
            self.times -= 1
            await self.change_state(digest, lambda state: state.update(other=state.get("other", 0) + 1))
        return await super().replace_state(digest, state_json, version)


@pytest.mark.anyio
class TestConflict:
    async def test_a_modification_runs_again_on_what_others_wrote(self) -> None:
        state = await new_state(Contested(times=3))
        seen: list[Any] = []

        def change(values: dict[str, Any]) -> None:
            seen.append(values.get("other", 0))
            values["mine"] = True

        await state.amodify(change)
        assert seen == [0, 1, 2, 3]
        assert await state.aall() == {"mine": True, "other": 3}

    async def test_a_modification_gives_up_at_last_and_says_what_to_do(self) -> None:
        state = await new_state(Contested(times=10**6))
        runs: list[None] = []
        with pytest.raises(StateConflict, match="increment"):
            await state.amodify(lambda values: runs.append(None))
        assert len(runs) == MODIFY_ATTEMPTS


@pytest.mark.anyio
class TestSync:
    async def in_sync_handler(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run `fn` as a sync handler runs: in a thread of a call."""
        return await threads.start(lambda: threads.run_sync(fn, *args))

    async def test_every_method_works_in_a_sync_handler(self, store: SessionStore) -> None:
        state = await new_state(store)

        def handler() -> None:
            state.set("a", 1)
            state.update({"b": 2, "c": [3]})
            assert state.get("a") == 1
            assert state.get("z", "default") == "default"
            assert state.increment("a", 2) == 3
            assert state.pop("b") == 2
            assert state.pop("b", "default") == "default"
            assert state.modify(lambda values: values["c"].append(4)) is None
            assert state.all() == {"a": 3, "c": [3, 4]}

        await self.in_sync_handler(handler)
        assert await state.aall() == {"a": 3, "c": [3, 4]}

    async def test_errors_reach_the_sync_handler(self, store: SessionStore) -> None:
        state = await new_state(store)
        with pytest.raises(StateInvalid):
            await self.in_sync_handler(state.set, "key", object())

    async def test_sync_handlers_of_several_calls_lose_nothing(self, store: SessionStore) -> None:
        state = await new_state(store)
        found = await asyncio.gather(*(self.in_sync_handler(state.increment, "n") for _ in range(20)))
        assert sorted(found) == list(range(1, 21))

    @pytest.mark.parametrize("name", METHODS)
    async def test_a_sync_method_in_async_code_names_its_async_twin(self, name: str) -> None:
        state = await new_state(MemoryStore())
        with pytest.raises(SynchronousOnlyOperation, match=rf"await state\.a{name}\("):
            getattr(state, name)(*ARGUMENTS[name])

    async def test_a_thread_that_works_for_no_call_is_told_so(self) -> None:
        state = await new_state(MemoryStore())
        with pytest.raises(RuntimeError, match="from handlers and hooks only"):
            await asyncio.get_running_loop().run_in_executor(None, state.all)

    @pytest.mark.skipif("connections['default'].vendor != 'sqlite'", reason="about SQLite")
    async def test_a_change_inside_a_transaction_that_has_sqlite_locked_is_refused_at_once(
        self, orm_store: ORMStore
    ) -> None:
        state = await new_state(orm_store)

        def handler() -> None:
            with transaction.atomic(), pytest.raises(TransactionManagementError, match=r"state\.set\(\)"):
                state.set("key", 1)
            state.set("key", 2)

        await self.in_sync_handler(handler)
        assert await state.aall() == {"key": 2}

    @pytest.mark.django_db
    def test_in_a_test_that_works_inline_a_transaction_is_fine(self) -> None:
        state = async_to_sync(new_state)(MemoryStore())
        with inline():
            assert connections["default"].in_atomic_block
            state.set("key", 1)
            assert state.get("key") == 1

    @pytest.mark.parametrize("name", METHODS)
    def test_every_method_has_a_twin_with_the_same_parameters(self, name: str) -> None:
        sync, twin = getattr(State, name), getattr(State, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        assert not inspect.iscoroutinefunction(sync)
        assert inspect.signature(sync) == inspect.signature(twin)
