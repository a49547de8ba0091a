"""Servers that are told to stop, and how long they may take."""

from __future__ import annotations

import signal

from tests.live.servers import Server
from tests.live.wire import Client

GONE_SECONDS = 2.0
# MCP_DJANGO_SHUTDOWN_GRACE, and a moment to write the errors.
GRACE_SECONDS = 1.5


def stop(server: Server, number: signal.Signals = signal.SIGTERM) -> float:
    """Stop a server that has open streams and nothing else; returns the seconds that it took."""
    server.disconnect()
    return server.terminate(number)


def check_gone(elapsed: float, server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """Gone within two seconds. On a busy machine without any stream it may take as long; then streams delay the end
    by no more than calls are given to end in."""
    if elapsed >= GONE_SECONDS:
        server.start()
        Client(server).initialize().call("add", a=1, b=2)
        idle = stop(server, number)
        print(f"[measured] {server!r} without streams: gone {idle:.2f} s after {number.name}, with {elapsed:.2f} s")
        assert elapsed - idle < GRACE_SECONDS
