"""Streams that are written as fast as their events get through to the reader of each, in one process.

    python -m benchmarks.workers.events SECONDS STREAMS...

Prints what was counted as JSON: for each number of streams how many events were handed over to be sent, in how many
seconds, and how many of those this process had a processor for.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import monotonic, process_time

import django
import uvloop

django.setup()

from benchmarks.workers.sessions import Connection, open_session, progress  # noqa: E402 - models need the setup
from mcp_django import sse  # noqa: E402
from mcp_django.cursors import Cursor  # noqa: E402
from mcp_django.feeds import Feed  # noqa: E402
from mcp_django.live import LiveSession  # noqa: E402
from mcp_django.models import Event  # noqa: E402
from mcp_django.sessions import sessions  # noqa: E402
from mcp_django.sse import Place  # noqa: E402

WARM_UP_SECONDS = 0.5


class Writer:
    """One call's stream: a task that appends, and a connection that reads."""

    def __init__(self, session: LiveSession, feed: Feed) -> None:
        self._feed = feed
        self._session = session
        self.bodies: list[bytes] = []
        self.stopped = False

    @classmethod
    async def open(cls, number: int) -> Writer:
        _id, session = await open_session()
        feed = await sessions().streams.open(session.digest, (number,), "tools/call", "benchmark")
        return cls(session, feed)

    async def run(self) -> None:
        streams = sessions().streams
        cursor = Cursor(streams, self._session, self._feed, Place(self._feed.id, 0))
        reading = asyncio.create_task(Connection(self.bodies.append).carry(cursor.frames()))
        while not self.stopped:
            await streams.append(self._feed, progress(self._feed.last + 1))
        await streams.append(self._feed, progress(self._feed.last + 1), finishes=True)
        await reading

    @property
    def sent(self) -> int:
        """How many events were handed over so far."""
        return sum(body.count(b"event: message\n") for body in self.bodies)

    async def check(self) -> None:
        """Every event was sent once, in order, under an id that clients may resume from, and is in the database."""
        frames = [frame.split(b"\n") for frame in b"".join(self.bodies).split(b"\n\n")]
        sent = [frame[1:] for frame in frames if frame[0] == b"event: message"]
        places = [sse.place_of(id.removeprefix(b"id: ").decode(), self._feed.digest) for id, _data in sent]
        expected = list(range(1, self._feed.last + 1))
        assert [place and place.sequence for place in places] == expected
        assert [json.loads(data.removeprefix(b"data: "))["params"]["progress"] for _id, data in sent] == expected
        assert await Event.objects.filter(stream_id=self._feed.id).acount() == self._feed.last


async def measure(streams: int, seconds: float) -> dict[str, float]:
    """Events, seconds and processor seconds with this many streams at once, after a warm-up."""
    writers = [await Writer.open(number) for number in range(streams)]
    running = [asyncio.create_task(writer.run()) for writer in writers]
    await asyncio.sleep(WARM_UP_SECONDS)
    before, start, cpu = sum(writer.sent for writer in writers), monotonic(), process_time()
    await asyncio.sleep(seconds)
    end, cpu = monotonic(), process_time() - cpu
    after = sum(writer.sent for writer in writers)
    for writer in writers:
        writer.stopped = True
    await asyncio.gather(*running)
    for writer in writers:
        await writer.check()
    return {"streams": streams, "events": after - before, "seconds": end - start, "cpu": cpu}


async def main() -> None:
    seconds, *crowds = sys.argv[1:]
    print(json.dumps([await measure(int(streams), float(seconds)) for streams in crowds]))
    await sessions().streams.leave()


if __name__ == "__main__":
    uvloop.run(main())
