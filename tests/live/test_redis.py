"""Redis away or stalled: nobody waits for it, and everything goes on by polling."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve
from tests.live.gate import Gate
from tests.live.measuring import QUIET, note, report
from tests.live.servers import Server, manage, some_by_default, wait_until
from tests.live.stopping import check_gone, stop
from tests.live.streams import check_whole
from tests.live.wire import Client

REDIS_URL = os.environ.get("REDIS_URL", "")

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not REDIS_URL, reason="set REDIS_URL to a Redis server"),
]

OUTAGES: dict[str, tuple[Callable[[Gate], None], Callable[[Gate], None]]] = {
    "refused": (Gate.refuse, Gate.restore),
    "stalled": (Gate.freeze, Gate.forget),
}
ELICITATION: dict[str, object] = {"elicitation": {}}
ROUNDS = 15
# Whoever waited for a stalled Redis would wait for a second at least.
PROMPT = 0.5
POLLED = 1.0
HINTED = 0.2
BACK_SECONDS = 90.0


@pytest.fixture
def gate() -> Iterator[Gate]:
    parts = urlsplit(REDIS_URL)
    with Gate((parts.hostname or "127.0.0.1", parts.port or 6379)) as gate:
        yield gate


@pytest.fixture
def serve_through(gate: Gate, serve: Serve) -> Callable[[], Server]:
    """Start a server that reaches Redis through the gate."""
    parts = urlsplit(REDIS_URL)
    login, at, _ = parts.netloc.rpartition("@")
    url = parts._replace(netloc=f"{login}{at}127.0.0.1:{gate.port}").geturl()
    # The channel layer logs tracebacks of its own.
    return lambda: serve(REDIS_URL=url, may_log_tracebacks=True, **QUIET)


def ask(asking: Client, answering: Client, name: str = "Ada") -> float:
    """A question, answered elsewhere; returns the seconds from the answer to the result."""
    with asking.start("ask_name") as stream:
        question = stream.next()
        answered = time.monotonic()
        result = {"action": "accept", "content": {"name": name}}
        assert answering.answer(question["id"], result).status_code == 202
        (answer,) = stream.rest()
        elapsed = time.monotonic() - answered
    assert answer["result"]["structuredContent"]["name"] == name
    return elapsed


def report_progress(client: Client) -> float:
    """A call that sends hints; returns the seconds that it takes."""
    started = time.monotonic()
    with client.start("slow_progress", "token", steps=5, seconds=0) as stream:
        check_whole(stream.rest(), 5, "token")
    return time.monotonic() - started


def hints_arrive(asking: Client, answering: Client) -> bool:
    return statistics.median(ask(asking, answering) for _ in range(3)) < HINTED


@pytest.mark.parametrize("outage", some_by_default(OUTAGES, {"stalled"}))
def test_without_redis_nobody_waits_and_everything_goes_on_by_polling(
    outage: str, gate: Gate, serve_through: Callable[[], Server], database: Database
) -> None:
    producer, other = serve_through(), serve_through()
    client = Client(producer, capabilities=ELICITATION).initialize()
    elsewhere = client.at(other)
    wait_until(lambda: hints_arrive(client, elsewhere), "Hints go through the gate", BACK_SECONDS)
    away, back = OUTAGES[outage]
    with client.at(other).listen() as listening, client.start("slow_progress", "long", steps=40, seconds=6) as running:
        listening.frame()
        got = running.messages(1)
        away(gate)

        for client_there in (client, elsewhere):
            assert report(f"{outage}: a call with progress", progress_times(client_there), database) < PROMPT
        assert report(f"{outage}: answered elsewhere", [ask(client, elsewhere) for _ in range(5)], database) < POLLED
        got += running.messages(3)
        running.close()
        with client.at(other).resume(running) as resumed:
            check_whole(got + resumed.rest(), 40, "long")
        code = "from demo_project.everything.server import everything; everything.notify_tools_changed()"
        manage(database.url, "shell", "--verbosity", "0", "-c", code, REDIS_URL=producer.environment["REDIS_URL"])
        assert listening.next()["method"] == "notifications/tools/list_changed"

        returned = time.monotonic()
        back(gate)
    wait_until(lambda: hints_arrive(client, elsewhere), "Hints arrive again", BACK_SECONDS)
    note(f"{outage}: hints are back {time.monotonic() - returned:.1f} s after Redis", database)


def progress_times(client: Client) -> list[float]:
    return [report_progress(client) for _ in range(ROUNDS)]


@pytest.mark.parametrize("outage", some_by_default(OUTAGES, {"refused"}))
def test_a_server_started_while_redis_is_away_serves_and_stops_like_any(
    outage: str, gate: Gate, serve_through: Callable[[], Server], database: Database
) -> None:
    OUTAGES[outage][0](gate)
    producer, other = serve_through(), serve_through()
    client = Client(producer, capabilities=ELICITATION).initialize()
    assert ask(client, client.at(other)) < 2 * POLLED
    assert report(f"started while {outage}: a call with progress", progress_times(client), database) < PROMPT
    with client.listen() as idle:
        idle.frame()
        elapsed = stop(producer)
        assert idle.rest() == []
        assert idle.response.complete
    note(f"stopped in {elapsed:.2f} s while Redis was {outage}", database)
    check_gone(elapsed, producer)
