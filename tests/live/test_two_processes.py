"""Two processes, one database: no request may notice which of them it reaches."""

from __future__ import annotations

import pytest

from tests.live.databases import Database
from tests.live.fixtures import Pair
from tests.live.wire import LIVE, Client, all_at_once, error_code

pytestmark = pytest.mark.live


def test_a_session_made_on_one_answers_on_the_other(pair: Pair) -> None:
    on_a = Client(pair.a).initialize()
    first = on_a.call("session_info")
    second = on_a.at(pair.b).call("session_info")
    assert first["pid"] != second["pid"]
    assert (first["restored"], second["restored"]) == (False, True)
    assert second["session_id"] == first["session_id"]


def test_a_session_may_be_initialized_on_one_and_confirmed_on_the_other(pair: Pair, database: Database) -> None:
    on_a = Client(pair.a)
    on_a.session_id = on_a.handshake().headers["mcp-session-id"]
    on_b = on_a.at(pair.b)
    assert on_b.notify("notifications/initialized").status_code == 202
    assert database.session(on_a.session_id, "initialized_at") != (None,)
    assert on_a.call("count") == {"value": 1}
    assert on_b.call("count") == {"value": 2}


def test_a_session_ended_on_one_is_gone_on_the_other_at_the_very_next_request(pair: Pair) -> None:
    for _ in range(20):
        on_a = Client(pair.a).initialize()
        on_b = on_a.at(pair.b)
        assert on_b.call("add", a=1, b=2) == {"result": 3}
        assert on_a.delete().status_code == 204
        response = on_b.post_call("add", a=1, b=2)
        assert response.status_code == 404
        assert error_code(response) == -32001
        assert on_b.delete().status_code == 404


def test_of_many_ends_at_once_one_wins_and_the_others_find_nothing(pair: Pair) -> None:
    on = [Client(pair.a).initialize()]
    on.append(on[0].at(pair.b))
    on[1].call("session_info")
    statuses = all_at_once(16, lambda index: on[index % 2].delete().status_code)
    assert sorted(statuses) == [204] + [404] * 15


def hammer_restore(pair: Pair, database: Database, requests: int) -> None:
    on_a = Client(pair.a).initialize()
    on_b = on_a.at(pair.b)
    answers = all_at_once(requests, lambda _: on_b.call("session_info"))
    assert {answer["restored"] for answer in answers} == {True}
    assert {answer["restore_count"] for answer in answers} == {1}
    assert len({answer["pid"] for answer in answers}) == 1
    assert database.session(on_a.session_id or "", "restore_count") == (1,)


def test_64_first_requests_at_once_restore_a_session_once(pair: Pair, database: Database) -> None:
    hammer_restore(pair, database, 64)


@pytest.mark.long
def test_500_rounds_of_first_requests_restore_each_session_once(pair: Pair, database: Database) -> None:
    for _ in range(500):
        hammer_restore(pair, database, 8)


def hammer_count(pair: Pair, database: Database, calls: int, workers: int) -> None:
    on = [Client(pair.a).initialize()]
    on.append(on[0].at(pair.b))

    def work(index: int) -> list[int]:
        client = on[index % 2]
        return [client.call("count")["value"] for _ in range(calls // workers)]

    values = [value for some in all_at_once(workers, work) for value in some]
    # Every call saw a value of its own, and none is missing.
    assert sorted(values) == list(range(1, calls + 1))
    assert on[0].call("count") == {"value": calls + 1}
    assert database.session(on[0].session_id or "", "restore_count") == (1,)


def test_a_counter_hammered_on_both_loses_nothing(pair: Pair, database: Database) -> None:
    hammer_count(pair, database, calls=160, workers=16)


@pytest.mark.long
def test_a_counter_hammered_on_both_two_thousand_times_loses_nothing(pair: Pair, database: Database) -> None:
    hammer_count(pair, database, calls=2000, workers=40)


def test_alternating_requests_see_each_others_state_at_once(pair: Pair) -> None:
    on = [Client(pair.a, path=LIVE).initialize()]
    on.append(on[0].at(pair.b))
    for turn in range(40):
        writer, reader = on[turn % 2], on[1 - turn % 2]
        writer.call("remember", key="turn", value=turn)
        assert reader.call("recall", key="turn") == {"value": turn}
        assert writer.call("recall", key="turn") == {"value": turn}


def test_alternating_requests_see_each_others_log_level_at_once(pair: Pair, database: Database) -> None:
    on = [Client(pair.a, path=LIVE).initialize()]
    on.append(on[0].at(pair.b))
    for turn, level in enumerate(["debug", "error", "info", "emergency"] * 5):
        writer, reader = on[turn % 2], on[1 - turn % 2]
        writer.request("logging/setLevel", {"level": level})
        assert database.session(on[0].session_id or "", "log_level") == (level,)
        assert reader.call("log_level") == {"value": level}


def test_sessions_of_many_clients_alternate_between_both_without_mixing(pair: Pair) -> None:
    def live(index: int) -> list[int]:
        on = [Client(pair[index % 2], name=f"client-{index}").initialize()]
        on.append(on[0].at(pair[1 - index % 2]))
        assert {client.call("session_info")["client_name"] for client in on} == {f"client-{index}"}
        return [on[turn % 2].call("count")["value"] for turn in range(6)]

    assert all_at_once(24, live) == [[1, 2, 3, 4, 5, 6]] * 24
