"""Durable JSON values of one session (``ctx.state``) or handle, shared by every process.

Each method has two names, as in Django: ``get`` for sync handlers, ``aget`` for async ones. A change never loses
another: it runs on the stored state under the row's lock, or as compare-and-set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mcp_django import blocking, jsonrpc
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StateConflict, StateInvalid, StateTooLarge

ResultT = TypeVar("ResultT")

MODIFY_ATTEMPTS = 20
READS = frozenset({"all", "get"})

StateOperation = Callable[[dict[str, Any]], Any]
"""Changes a state in place and returns what the caller is to get. Quick and without I/O: it may run
while the row is locked. It may raise :class:`~mcp_django.exceptions.HandlerError`; then nothing is changed."""


class StateStore(Protocol):
    """What keeps states, each under a digest. Of what is over, each method raises the store's own "not found"."""

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        """The state and its version."""

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        """Run ``operation`` on the state so that no change of another caller or process is lost.

        Raises:
            HandlerError: from the operation, or because the state would become too large.
        """

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        """Put a new state in place of the one with this version. False if another came first, or it is over."""


class State:
    """A durable state.

    Args:
        store: what keeps it.
        digest: its key there.
    """

    def __init__(self, store: StateStore, digest: str) -> None:
        self._store = store
        self._digest = digest

    async def aall(self) -> dict[str, Any]:
        """A copy of the whole state."""
        state, _version = await self._store.read_state(self._digest)
        return state

    async def aget(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, as stored at this moment."""
        return (await self.aall()).get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        """Store ``value`` under ``key``.

        Raises:
            StateInvalid: the key is no string, or the value is not plain JSON.
            StateTooLarge: the state would outgrow ``MCP_DJANGO_MAX_STATE_BYTES``.
        """
        await self.aupdate({key: value})

    async def aupdate(self, values: dict[str, Any]) -> None:
        """Store several values at once. Raises as :meth:`aset` does."""
        plain = json.loads(state_text(values))
        await self._store.change_state(self._digest, lambda state: state.update(plain))

    async def apop(self, key: str, default: Any = None) -> Any:
        """Remove ``key`` and return what was under it."""
        return await self._store.change_state(self._digest, lambda state: state.pop(key, default))

    async def aincrement(self, key: str, by: float = 1) -> Any:
        """Add ``by`` to the number under ``key`` (0 if there is none) and return the sum.

        Raises:
            StateInvalid: what is there is not a number.
        """

        def add(state: dict[str, Any]) -> Any:
            value = state.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise StateInvalid(f"increment() needs a number under {key!r}, found {type(value).__name__}.")
            state[key] = value + by
            return state[key]

        return await self._store.change_state(self._digest, add)

    async def amodify(self, change: Callable[[dict[str, Any]], ResultT]) -> ResultT:
        """Let ``change`` edit the state in place; its return value is returned.

        ``change`` may run more than once: it runs again whenever another caller's change came in between.

        Raises:
            StateConflict: that happened too many times in a row.
        """
        for _attempt in range(MODIFY_ATTEMPTS):
            state, version = await self._store.read_state(self._digest)
            result = change(state)
            if await self._store.replace_state(self._digest, state_text(state), version):
                return result
        raise StateConflict(
            f"The state was changed by others {MODIFY_ATTEMPTS} times in a row. Try again, or use "
            "increment(), set() or update(), which cannot conflict."
        )

    def all(self) -> dict[str, Any]:
        """See :meth:`aall`."""
        return self._sync("all", self.aall)

    def get(self, key: str, default: Any = None) -> Any:
        """See :meth:`aget`."""
        return self._sync("get", self.aget, key, default)

    def set(self, key: str, value: Any) -> None:
        """See :meth:`aset`."""
        self._sync("set", self.aset, key, value)

    def update(self, values: dict[str, Any]) -> None:
        """See :meth:`aupdate`."""
        self._sync("update", self.aupdate, values)

    def pop(self, key: str, default: Any = None) -> Any:
        """See :meth:`apop`."""
        return self._sync("pop", self.apop, key, default)

    def increment(self, key: str, by: float = 1) -> Any:
        """See :meth:`aincrement`."""
        return self._sync("increment", self.aincrement, key, by)

    def modify(self, change: Callable[[dict[str, Any]], ResultT]) -> ResultT:
        """See :meth:`amodify`."""
        result: ResultT = self._sync("modify", self.amodify, change)
        return result

    def _sync(self, name: str, method: Callable[..., Coroutine[Any, Any, ResultT]], *args: Any) -> ResultT:
        # Only stores in a database have an alias.
        writes_to = None if name in READS else getattr(self._store, "alias", None)
        result: ResultT = blocking.wait(f"state.{name}", f"state.a{name}", method, *args, writes_to=writes_to)
        return result


def state_text(state: Any) -> str:
    """The JSON text under which a state is stored.

    Raises:
        StateInvalid: it is not plain JSON with string keys, or nested too deeply.
        StateTooLarge: it is larger than ``MCP_DJANGO_MAX_STATE_BYTES``.
    """
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise StateInvalid("The state takes string keys only.")
    try:
        text = jsonrpc.canonical(state)
    except (TypeError, ValueError, RecursionError) as error:
        raise StateInvalid(f"The state takes plain JSON values only: {error}.") from None
    # After the encoder, which has found out values that contain themselves.
    if not jsonrpc.has_string_keys_only(state):
        raise StateInvalid("The state takes string keys only, at every level.")
    if len(text) > mcp_settings.MAX_STATE_BYTES:
        raise StateTooLarge(
            f"The state would take {len(text)} bytes, {mcp_settings.MAX_STATE_BYTES} are allowed "
            "(MCP_DJANGO_MAX_STATE_BYTES). Keep less in it, or keep large values in models of your own."
        )
    if jsonrpc.depth(state) > jsonrpc.MAX_DEPTH:
        raise StateInvalid(f"The state may be nested {jsonrpc.MAX_DEPTH} levels deep at most.")
    return text
