"""What is said to the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections

from mcp_django.visits import alias


def queries_of(items: Sequence[Any], work: Callable[[Any], Any]) -> tuple[list[str], Any]:
    """The statements of one visit to the database, and its outcomes."""
    statements: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        statements.append(sql)
        return execute(sql, *args)

    with connections[alias()].execute_wrapper(note):
        outcomes = work(items)
    return [sql for sql in statements if not sql.startswith(("SAVEPOINT", "RELEASE"))], outcomes
