"""One visit of a lane to the database: many items, few statements. Synchronous, in the lanes' threads only.

An item's class knows how to serve any number of its kind at once (``serve``); a visit groups the items by class. All
rows go through the database that sessions are written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from django.db import router, transaction

from mcp_django.models import Session


class Item(Protocol):
    """One read or write on its way through a lane."""

    @staticmethod
    def serve(items: Any) -> Sequence[Any]:
        """Serve items of this class; one outcome for each, in their order. An exception among the outcomes is its
        own item's alone; one that is raised has the items tried again in smaller batches."""


def alias() -> str:
    """The database that sessions are written to; all is read from there too, since a lagging replica would answer
    404 for a session that was just made."""
    return router.db_for_write(Session)


def read(items: Sequence[Item]) -> list[Any]:
    """Answer all reads."""
    outcomes: list[Any] = [None] * len(items)
    kinds: dict[type[Item], list[int]] = {}
    for index, item in enumerate(items):
        kinds.setdefault(type(item), []).append(index)
    for kind, indexes in kinds.items():
        for index, outcome in zip(indexes, kind.serve([items[i] for i in indexes]), strict=True):
            outcomes[index] = outcome
    return outcomes


def write(items: Sequence[Item]) -> list[Any]:
    """Make all changes in one transaction and one commit."""
    with transaction.atomic(using=alias()):
        return read(items)
