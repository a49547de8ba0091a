"""This server process: its id, and the thread that renews its lease."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from math import inf
from time import monotonic
from typing import Any

from mcp_django.batches import RenewLease
from mcp_django.lanes import inline
from mcp_django.models import Process

RENEW_SECONDS = 3.0

_ids: dict[int, uuid.UUID] = {}


def this_process() -> uuid.UUID:
    """The id of this process, made at first use and anew after a fork."""
    pid = os.getpid()
    if pid not in _ids:
        _ids.clear()
        _ids[pid] = uuid.uuid4()
    return _ids[pid]


def package_version() -> str:
    """The installed version of this package."""
    try:
        return version("django-mcp-sessions")
    except PackageNotFoundError:
        return "unknown"


class Heartbeat:
    """Renews this process's lease every few seconds once the process keeps sessions."""

    def __init__(self, post: Callable[[Any, Callable[[], None]], None]) -> None:
        self._post = post
        self._pid = 0
        self._stop = threading.Event()
        self._unbroken_since = self._renewed_at = -inf

    @property
    def may_judge(self) -> bool:
        """Whether this process may take others for dead whose lease ran out.

        Only one that has reached the database itself for a full lease may: after a failover, or when this process
        was frozen, everybody's lease has run out.
        """
        now, lease = monotonic(), Process.LEASE.total_seconds()
        return now - self._renewed_at < lease / 2 and now - self._unbroken_since >= lease

    def start(self) -> None:
        """Start the thread, once per process; none in tests that run inside a transaction."""
        if self._pid == os.getpid() or inline.enabled:
            return
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._unbroken_since = self._renewed_at = -inf
        threading.Thread(target=self._run, args=(self._stop,), name="mcp-django-lease", daemon=True).start()

    def stop(self) -> None:
        """End the thread; the lease runs out by itself."""
        self._stop.set()
        self._pid = 0

    def _run(self, stop: threading.Event) -> None:
        renewal = RenewLease(this_process(), package_version())
        self._post(renewal, self._renewed)
        while not stop.wait(RENEW_SECONDS):
            self._post(renewal, self._renewed)

    def _renewed(self) -> None:
        now = monotonic()
        if now - self._renewed_at >= Process.LEASE.total_seconds() / 2:
            self._unbroken_since = now
        self._renewed_at = now
