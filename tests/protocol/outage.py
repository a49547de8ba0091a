"""A database that is away, silent, or back again: what the store's lanes meet when they visit it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from django.db import OperationalError

from mcp_django.lanes import Lane
from mcp_django.store import ORMStore, session_store

SECONDS = 60.0


@contextmanager
def refusing(*lanes: str) -> Iterator[Callable[[], int]]:
    """The database refuses every visit of these lanes; of all, if none is named. Yields what counts the refusals."""
    refused = 0

    def refuse(items: list[Any]) -> list[Any]:
        nonlocal refused
        refused += 1
        raise OperationalError("server closed the connection unexpectedly")

    with replaced(lambda work: refuse, lanes):
        yield lambda: refused


@contextmanager
def commits_unheard(kind: type[Any]) -> Iterator[Callable[[], int]]:
    """The connection breaks once, when the first visit with a write of this kind has been committed, and before that
    could be said. Yields what counts how often this happened."""
    unheard = 0

    def commit(work: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def visit(items: list[Any]) -> Any:
            nonlocal unheard
            outcomes = work(items)
            if not unheard and any(isinstance(item, kind) for item in items):
                unheard += 1
                raise OperationalError("server closed the connection unexpectedly")
            return outcomes

        return visit

    with replaced(commit, ("writes",)):
        yield lambda: unheard


@contextmanager
def silent(*lanes: str) -> Iterator[threading.Event]:
    """The database takes a visit and says nothing until the event is set, or until the end."""
    speaks = threading.Event()

    def silently(work: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def wait(items: list[Any]) -> Any:
            assert speaks.wait(SECONDS), "Nobody ended the silence."
            return work(items)

        return wait

    try:
        with replaced(silently, lanes):
            yield speaks
    finally:
        speaks.set()


@contextmanager
def replaced(
    make: Callable[[Callable[[list[Any]], Any]], Callable[[list[Any]], Any]], names: tuple[str, ...]
) -> Iterator[None]:
    reads, writes = lanes_of_store()
    chosen = [lane for lane in (reads, writes) if not names or lane.name in names]
    patches = [patch.object(lane, "_work", make(lane._work)) for lane in chosen]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def lanes_of_store() -> tuple[Lane[Any], Lane[Any]]:
    store = session_store()
    assert isinstance(store, ORMStore)
    return store.reads, store.writes
