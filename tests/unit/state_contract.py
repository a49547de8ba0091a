"""What every store promises of states, whether they belong to sessions or to handles."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime
from itertools import chain
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from mcp_django.exceptions import HandlerError, StateInvalid, StateTooLarge
from mcp_django.models import digest_of
from mcp_django.state import StateStore
from tests.unit import records

UNKNOWN = digest_of("nobody has this id")


def add_one(state: dict[str, Any]) -> int:
    state["n"] = state.get("n", 0) + 1
    return int(state["n"])


@pytest.mark.anyio
class StateContract:
    """The promises. A subclass defines the fixture ``states`` and how what has a state is made and ended."""

    missing: type[Exception]
    """What is raised for what is not there."""

    async def made(self, states: Any, now: datetime | None = None) -> str:
        """The digest of something with a state, made at this moment."""
        raise NotImplementedError

    async def is_ended(self, states: Any, digest: str) -> None:
        """Somebody ends it."""
        raise NotImplementedError

    async def is_missing(self, states: StateStore, digest: str) -> None:
        """There is no state of this digest, whatever is done with it."""
        with pytest.raises(self.missing):
            await states.read_state(digest)
        with pytest.raises(self.missing):
            await states.change_state(digest, add_one)
        assert await states.replace_state(digest, "{}", 0) is False

    async def test_what_is_unknown_has_no_state(self, states: StateStore) -> None:
        await self.is_missing(states, UNKNOWN)

    async def test_the_state_ends_with_what_it_belongs_to(self, states: StateStore) -> None:
        digest = await self.made(states)
        await states.change_state(digest, add_one)
        await self.is_ended(states, digest)
        await self.is_missing(states, digest)

    async def test_what_is_past_its_expiry_has_no_state(self, states: StateStore) -> None:
        await self.is_missing(states, await self.made(states, timezone.now() - 2 * records.TTL))

    async def test_what_is_new_has_an_empty_state(self, states: StateStore) -> None:
        digest = await self.made(states)
        state, _version = await states.read_state(digest)
        assert state == {}

    async def test_an_operation_changes_the_state_and_returns_its_outcome(self, states: StateStore) -> None:
        digest = await self.made(states)
        assert await states.change_state(digest, add_one) == 1
        assert await states.change_state(digest, add_one) == 2
        state, _version = await states.read_state(digest)
        assert state == {"n": 2}

    async def test_what_is_read_is_a_copy(self, states: StateStore) -> None:
        digest = await self.made(states)
        await states.change_state(digest, lambda state: state.update(inner={"a": 1}))
        for _ in range(2):
            state, _version = await states.read_state(digest)
            assert state == {"inner": {"a": 1}}
            state["inner"]["a"] = state["b"] = 2

    async def test_any_json_is_kept(self, states: StateStore) -> None:
        digest = await self.made(states)
        value = {"text": "😀 \x00 \ud800", "list": [1, 1.5, True, None, {"": "é"}], "big": 10**30}
        await states.change_state(digest, lambda state: state.update(value))
        state, _version = await states.read_state(digest)
        assert state == value
        assert state["list"][2] is True

    async def test_two_have_two_states(self, states: StateStore) -> None:
        one, other = await self.made(states), await self.made(states)
        await asyncio.gather(*(states.change_state(digest, add_one) for digest in [one, other, one, other, one]))
        assert (await states.read_state(one))[0] == {"n": 3}
        assert (await states.read_state(other))[0] == {"n": 2}

    async def test_changes_that_come_at_once_lose_nothing(self, states: StateStore) -> None:
        digest = await self.made(states)
        outcomes = await asyncio.gather(*(states.change_state(digest, add_one) for _ in range(200)))
        assert sorted(outcomes) == list(range(1, 201))

    async def test_changes_of_several_threads_and_event_loops_lose_nothing(self, states: StateStore) -> None:
        digest = await self.made(states)
        start = threading.Barrier(4)

        async def add_fifty() -> list[int]:
            return [*await asyncio.gather(*(states.change_state(digest, add_one) for _ in range(50)))]

        def in_a_loop_of_its_own() -> list[int]:
            start.wait(10)
            return asyncio.run(add_fifty())

        found = await asyncio.gather(*(asyncio.to_thread(in_a_loop_of_its_own) for _ in range(4)))
        assert sorted(chain(*found)) == list(range(1, 201))
        assert (await states.read_state(digest))[0] == {"n": 200}

    async def test_a_refused_change_changes_nothing_and_harms_no_other(self, states: StateStore) -> None:
        digest, other = await self.made(states), await self.made(states)

        def refuse(state: dict[str, Any]) -> None:
            state["n"] = -1000
            raise HandlerError("not so")

        outcomes = await asyncio.gather(
            states.change_state(digest, add_one),
            states.change_state(digest, refuse),
            states.change_state(UNKNOWN, add_one),
            states.change_state(digest, add_one),
            states.change_state(other, add_one),
            return_exceptions=True,
        )
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], HandlerError)
        assert isinstance(outcomes[2], self.missing)
        assert list(outcomes[3:]) == [2, 1]
        assert (await states.read_state(digest))[0] == {"n": 2}

    async def test_a_mistake_in_an_operation_reaches_its_caller_and_harms_no_other(self, states: StateStore) -> None:
        digest = await self.made(states)

        def mistaken(state: dict[str, Any]) -> Any:
            state["n"] = -1000
            return state["no such key"]

        outcomes = await asyncio.gather(
            states.change_state(digest, add_one),
            states.change_state(digest, mistaken),
            states.change_state(digest, add_one),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], KeyError)
        assert (await states.read_state(digest))[0]["n"] == 2

    @override_settings(MCP_DJANGO_MAX_STATE_BYTES=100)
    async def test_a_state_that_would_become_too_large_is_refused_and_stays(self, states: StateStore) -> None:
        digest = await self.made(states)
        await states.change_state(digest, add_one)
        with pytest.raises(StateTooLarge, match="MCP_DJANGO_MAX_STATE_BYTES"):
            await states.change_state(digest, lambda state: state.update(text="x" * 100))
        assert (await states.read_state(digest))[0] == {"n": 1}
        assert await states.change_state(digest, add_one) == 2

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("nan"), float("inf")])
    async def test_a_state_that_is_not_json_is_refused_and_stays(self, states: StateStore, value: Any) -> None:
        digest = await self.made(states)
        await states.change_state(digest, add_one)
        with pytest.raises(StateInvalid):
            await states.change_state(digest, lambda state: state.update(value=value))
        assert (await states.read_state(digest))[0] == {"n": 1}

    async def test_a_state_is_replaced_only_in_the_version_that_was_read(self, states: StateStore) -> None:
        digest = await self.made(states)
        _state, version = await states.read_state(digest)
        assert await states.replace_state(digest, '{"a":1}', version) is True
        assert await states.replace_state(digest, '{"a":2}', version) is False
        state, newer = await states.read_state(digest)
        assert state == {"a": 1}
        assert newer != version

    async def test_a_change_in_between_makes_a_replacement_fail(self, states: StateStore) -> None:
        digest = await self.made(states)
        _state, version = await states.read_state(digest)
        await states.change_state(digest, add_one)
        assert await states.replace_state(digest, "{}", version) is False
        assert (await states.read_state(digest))[0] == {"n": 1}

    async def test_of_replacements_of_one_version_one_succeeds(self, states: StateStore) -> None:
        digest = await self.made(states)
        _state, version = await states.read_state(digest)
        done = await asyncio.gather(*(states.replace_state(digest, f'{{"by":{n}}}', version) for n in range(10)))
        assert sorted(done) == [False] * 9 + [True]
        assert (await states.read_state(digest))[0] == {"by": done.index(True)}
