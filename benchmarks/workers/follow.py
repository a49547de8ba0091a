"""Connections on streams that another process produces; see :mod:`benchmarks.workers.produce`.

    python -m benchmarks.workers.follow

Reads from its standard input what that process prints, prints a line once it follows all of the streams, and when they
have ended the seconds between each event's append and its being handed over to be sent, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import monotonic

import django
import uvloop

django.setup()

from benchmarks.workers.sessions import Connection, hints_get_through, messages, resumed  # noqa: E402
from mcp_django.sessions import sessions  # noqa: E402


class Reader:
    """One connection, and when each of its bodies was sent."""

    def __init__(self) -> None:
        self.connection = Connection(lambda body: self._bodies.append((monotonic(), body)))
        self._bodies: list[tuple[float, bytes]] = []

    async def run(self, session_id: str, event_id: str) -> None:
        await self.connection.carry(await resumed(session_id, event_id))

    def delays(self) -> list[float]:
        """Seconds from append to wire, in the order of the events, of which each has come once."""
        came = [(at, message["params"]) for at, body in self._bodies for message in messages(body)]
        assert [params["progress"] for _at, params in came] == list(range(1, len(came) + 1))
        return [at - float(params["message"]) for at, params in came]


async def main() -> None:
    places = json.loads(await asyncio.to_thread(sys.stdin.readline))
    readers = [Reader() for _place in places]
    running = [asyncio.create_task(reader.run(*place)) for reader, place in zip(readers, places, strict=True)]
    for reader in readers:
        await reader.connection.begun.wait()
    await hints_get_through()
    print("ready", flush=True)
    await asyncio.gather(*running)
    print(json.dumps([delay for reader in readers for delay in reader.delays()]))
    await sessions().streams.leave()


if __name__ == "__main__":
    uvloop.run(main())
