"""Feeds: what this process knows of the streams that it produces or follows.

A stream is an append-only log; a feed is one process's view of it: how far it is, its newest events, and the cursors
that wait for more. What a feed no longer holds is read from the store, so slow readers cost bounded memory.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from mcp_django.jsonrpc import RequestId

if TYPE_CHECKING:
    from mcp_django.cursors import Cursor
    from mcp_django.stream_batches import Append

TAIL_EVENTS = 128
TAIL_CHARACTERS = 128 * 1024


class Feed:
    """One stream as this process knows it.

    Args:
        produced: whether a call of this process writes it. Then its end is known here first; every other stream is
            looked after by the watcher.
    """

    __slots__ = (
        "_lock",
        "_size",
        "_tail",
        "cursors",
        "digest",
        "finished",
        "first_closes",
        "id",
        "last",
        "produced",
        "request_ids",
        "standalone",
        "unsure",
    )

    def __init__(
        self,
        id: int,
        digest: str,
        *,
        request_ids: tuple[RequestId, ...] = (),
        standalone: bool = False,
        produced: bool = False,
        last: int = 0,
        finished: bool = False,
    ) -> None:
        self.id = id
        self.digest = digest
        self.request_ids = request_ids
        self.standalone = standalone
        self.produced = produced
        self.last = last
        self.finished = finished
        self.first_closes = False
        """Whether the connection that the exchange began with is to close as soon as it is there."""
        self.unsure: tuple[Append, ...] = ()
        """What whoever wrote it did not wait for, or not long enough: at most one of these is the next event."""
        self.cursors: set[Cursor] = set()
        self._tail: deque[tuple[int, str]] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def push(self, sequence: int, payload: str, *, finished: bool) -> None:
        """An event was committed by this process."""
        with self._lock:
            self._tail.append((sequence, payload))
            self._size += len(payload)
            while len(self._tail) > TAIL_EVENTS or (self._size > TAIL_CHARACTERS and len(self._tail) > 1):
                self._size -= len(self._tail.popleft()[1])
            self.last = sequence
            self.finished = finished
        self.wake()

    def saw(self, last: int, *, finished: bool) -> None:
        """The store has events up to ``last``. An older look at it takes nothing back."""
        if last > self.last or finished > self.finished:
            with self._lock:
                self.last = max(self.last, last)
                self.finished = self.finished or finished
            self.wake()

    def after(self, position: int) -> list[tuple[int, str]] | None:
        """The events after a position; None if they are to be read from the store."""
        with self._lock:
            if not self._tail or self._tail[0][0] > position + 1 or self._tail[-1][0] != self.last:
                return None
            newest_first = []
            for event in reversed(self._tail):
                if event[0] <= position:
                    break
                newest_first.append(event)
            return newest_first[::-1]

    def lose(self) -> None:
        """This process is no longer the producer: somebody else has ended the stream."""
        with self._lock:
            self.produced = False
            self._tail.clear()
            self._size = 0

    def wake(self) -> None:
        """Have all cursors look again."""
        for cursor in tuple(self.cursors):
            cursor.wake()
