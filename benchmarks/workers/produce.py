"""Streams whose events another process follows; see :mod:`benchmarks.workers.follow`.

    python -m benchmarks.workers.produce STREAMS EVENTS

Prints where the streams begin, as JSON: for each the session id and an event id to resume from. Then waits for a line
on its standard input, appends the events at random moments, and ends. Each event carries the time of its append, on
the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from time import monotonic

import django
import uvloop

django.setup()

from benchmarks.workers.sessions import hints_get_through, open_session, progress  # noqa: E402 - models need the setup
from mcp_django.feeds import Feed  # noqa: E402
from mcp_django.sessions import sessions  # noqa: E402
from mcp_django.sse import EventIds  # noqa: E402

# Much less than the poll interval, and not in step with it.
MEAN_PAUSE = 0.1


async def open_stream() -> tuple[Feed, tuple[str, str]]:
    """A stream, and what a client needs to follow it."""
    session_id, session = await open_session()
    feed = await sessions().streams.open(session.digest, (1,), "tools/call", "benchmark")
    return feed, (session_id, EventIds(session.digest, feed.id, feed.request_ids).at(0))


async def produce(feed: Feed, events: int) -> None:
    """Append to a stream until its end."""
    random = Random(feed.id)
    for number in range(1, events + 1):
        await asyncio.sleep(random.uniform(0, 2 * MEAN_PAUSE))
        finishes = number == events
        await sessions().streams.append(feed, progress(number, str(monotonic())), finishes=finishes)


async def main() -> None:
    streams, events = map(int, sys.argv[1:])
    opened = [await open_stream() for _ in range(streams)]
    print(json.dumps([place for _feed, place in opened]), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await hints_get_through()
    await asyncio.gather(*(produce(feed, events) for feed, _place in opened))
    await sessions().streams.leave()


if __name__ == "__main__":
    uvloop.run(main())
