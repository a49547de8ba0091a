"""Quotas: how many rows of sessions one caller may have. Synchronous, in the store's lane for writes.

Whoever opens one session too many loses the one that was of least use: first those that are over, then those that were
left half open, then those that nobody has used for longest. So neither a client that never ends a session nor a flood
of ``initialize`` makes the table grow, and nobody else notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Q
from django.utils import timezone

from mcp_django.conf import mcp_settings
from mcp_django.models import Session
from mcp_django.visits import alias

END_REASON: Final = "the caller opened too many others"
# A client that has just opened its session is about to say that it is initialized.
HANDSHAKE: Final = timedelta(seconds=10)
# Rows of sessions that are over may outnumber the live ones, while their streams wait to be pruned.
MOST_ROWS: Final = 2


def limit_of(session: Any) -> int:
    """How many live sessions the owner of this one may have.

    Args:
        session: a row or a record.
    """
    return mcp_settings.MAX_PRINCIPAL_SESSIONS if session.principal else mcp_settings.MAX_ADDRESS_SESSIONS


def make_room(new: Sequence[Session]) -> set[str]:
    """See that nobody has more sessions than they may, now that these rows are there too.

    Returns:
        the keys of new ones for which there was no room; their rows are gone.
    """
    now = timezone.now()
    limits = {row.quota: limit_of(row) for row in new if row.quota}
    refused: list[str] = []
    for quota, rows, live in _counts(limits, now):
        if rows > limits[quota]:
            mine = [row.pk for row in new if row.quota == quota]
            surplus = _Room(quota, limits[quota], mine, now).made(rows, live)
            refused += mine[len(mine) - min(surplus, len(mine)) :]
    if refused:
        _rows().filter(pk__in=refused).delete()
    return set(refused)


def _counts(quotas: Iterable[str], now: datetime) -> list[tuple[str, int, int]]:
    """How many rows, and how many live ones, there are of each."""
    live = Count("pk", filter=Q(status=Session.Status.ACTIVE, expires_at__gt=now))
    found = _rows().filter(quota__in=list(quotas)).order_by().values("quota").annotate(rows=Count("pk"), live=live)
    return [(row["quota"], row["rows"], row["live"]) for row in found]


class _Room:
    """Makes room among one caller's sessions for its new ones."""

    def __init__(self, quota: str, limit: int, new: Sequence[str], now: datetime) -> None:
        self._limit = limit
        self._now = now
        self._mine = _rows().of_quota(quota).exclude(pk__in=new)

    def made(self, rows: int, live: int) -> int:
        """Delete and end what there is too much of.

        Returns:
            how many there still are too many.
        """
        rows -= self._delete(self._mine.over_before(self._now), rows - self._limit)
        half_open = self._delete(self._mine.active(self._now).half_open(self._now - HANDSHAKE), live - self._limit)
        rows, live = rows - half_open, live - half_open
        if live > self._limit:
            live -= self._end(live - self._limit)
        return max(live - self._limit, rows - MOST_ROWS * self._limit, 0)

    def _delete(self, useless: Any, count: int) -> int:
        if count <= 0:
            return 0
        keys = list(useless.without_streams().order_by("last_seen_at").values_list("pk", flat=True)[:count])
        _total, deleted = _rows().filter(pk__in=keys).delete()
        return int(deleted.get(Session._meta.label, 0))

    def _end(self, count: int) -> int:
        idle = self._mine.active(self._now).idle().order_by("last_seen_at").values_list("pk", flat=True)
        return int(_rows().filter(pk__in=list(idle[:count])).end_all(END_REASON))


def _rows() -> Any:
    return Session.objects.using(alias())
