"""Async methods for sync handlers: a twin without the ``a`` that waits, and says early where it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.db.transaction import TransactionManagementError

from mcp_django import lanes, threads

ResultT = TypeVar("ResultT")


def wait(
    name: str,
    twin: str,
    method: Callable[..., Coroutine[Any, Any, ResultT]],
    *args: Any,
    writes_to: Callable[[], str] | None = None,
) -> ResultT:
    """Run ``method`` and wait for it in a sync handler.

    Args:
        name: what the caller wrote, for error messages. twin: what it should write in async code.
        writes_to: says which database the method writes to; None if it writes to none.

    Raises:
        SynchronousOnlyOperation: this is async code.
        TransactionManagementError: the caller has that database locked.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if writes_to is not None:
            _refuse_locked_database(name, writes_to)
        result: ResultT = threads.wait_for(method(*args))
        return result
    raise SynchronousOnlyOperation(f"{name}() blocks and was called in async code. Use `await {twin}(...)` there.")


def _refuse_locked_database(name: str, alias: Callable[[], str]) -> None:
    """Say early what would otherwise be a wait until the deadline, for everybody."""
    if lanes.inline.enabled:
        return
    connection = connections[alias()]
    if connection.vendor == "sqlite" and connection.in_atomic_block:
        raise TransactionManagementError(
            f"{name}() was called inside transaction.atomic(), which has SQLite locked for the store's own connection. "
            "Call it before or after the block."
        )
