"""Hearers: connections that are told of a server's notices, whichever era they are of."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from mcp_django.connections import Connection, running_loop
from mcp_django.stream_reads import Notice


class Hearer(Connection):
    """Gathers the notices that concern it until they are sent, one of each: a notice says only "look again"."""

    server: str
    """The name of the server whose notices it hears."""
    heard: int
    """The number up to which it was told."""
    _notices: dict[tuple[str, str], Notice]

    @property
    def uris(self) -> frozenset[str]:
        """The resources whose updates concern it."""
        raise NotImplementedError(f"{type(self).__name__} must define uris.")

    def concerns(self, notice: Notice) -> bool:
        """Whether it is to be sent this."""
        return notice.kind != "resource" or notice.uri in self.uris

    def tell(self, notices: Sequence[Notice], clock: int) -> None:
        """Hand over notices up to the number ``clock``. From any thread."""
        assert self._loop is not None
        if self._loop is running_loop():
            self._tell(notices, clock)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, notices, clock)

    def _tell(self, notices: Sequence[Notice], clock: int) -> None:
        mine = [notice for notice in notices if self.heard < notice.version <= clock and self.concerns(notice)]
        self.heard = max(self.heard, clock)
        for notice in sorted(mine, key=attrgetter("version")):
            # The newest at the end, so that they leave in the order of their numbers.
            self._notices.pop((notice.kind, notice.uri), None)
            self._notices[notice.kind, notice.uri] = notice
        if mine:
            self.wake()
        elif not self._notices:
            self._has_nothing_to_tell()

    def _has_nothing_to_tell(self) -> None:
        """What was heard needs no message."""

    def _take_notices(self) -> list[Notice]:
        notices, self._notices = self._notices, {}
        return list(notices.values())


def params_of(notice: Notice) -> dict[str, Any] | None:
    """The params of a notice's notification."""
    return {"uri": notice.uri} if notice.kind == "resource" else None
