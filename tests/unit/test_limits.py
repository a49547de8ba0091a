"""How often one caller may do something."""

from __future__ import annotations

import threading

import pytest

from mcp_django import limits
from mcp_django.auth import ANONYMOUS, Principal
from mcp_django.http import Request
from mcp_django.limits import Rate
from tests.unit.requests_by_hand import not_made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by the test."""
    now = [1000.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    return now


def request(peer: str) -> Request:
    return Request("POST", [], b"", not_made, peer=peer)


class TestRate:
    def test_a_minutes_worth_may_come_at_once_and_the_next_has_to_wait(self, clock: list[float]) -> None:
        rate = Rate()
        assert [rate.take("a", 60) for _ in range(60)] == [0.0] * 60
        assert rate.take("a", 60) == pytest.approx(1.0)
        clock[0] += 0.5
        assert rate.take("a", 60) == pytest.approx(0.5)
        clock[0] += 0.6
        assert rate.take("a", 60) == 0.0

    def test_who_was_quiet_for_long_has_a_minutes_worth_and_not_more(self, clock: list[float]) -> None:
        rate = Rate()
        rate.take("a", 10)
        clock[0] += 3600
        assert [rate.take("a", 10) > 0 for _ in range(11)] == [False] * 10 + [True]

    def test_each_caller_has_its_own(self, clock: list[float]) -> None:
        rate = Rate()
        assert [rate.take(caller, 1) for caller in "ab"] == [0.0, 0.0]
        assert rate.take("a", 1) > 0

    def test_it_remembers_a_bounded_number_of_callers(
        self, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "MAX_CALLERS", 100)
        rate = Rate()
        for number in range(1000):
            rate.take(f"caller {number}", 1)
        assert len(rate._buckets) == 100
        assert rate.take("caller 999", 1) > 0
        assert rate.take("caller 0", 1) == 0

    def test_threads_get_no_more_than_there_is(self) -> None:
        rate = Rate()
        taken: list[bool] = []

        def take() -> None:
            taken.extend(rate.take("a", 100) == 0 for _ in range(100))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 100 <= sum(taken) <= 102


class TestCaller:
    def test_a_principal_is_the_same_caller_from_anywhere(self) -> None:
        alice = Principal("user:1")
        assert limits.caller_of(alice, request("192.0.2.1")) == limits.caller_of(alice, request("192.0.2.2"))

    def test_anonymous_callers_are_told_apart_by_their_addresses(self) -> None:
        callers = {limits.caller_of(ANONYMOUS, request(peer)) for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.1")}
        assert len(callers) == 2

    def test_no_principal_can_pass_for_an_address(self) -> None:
        assert limits.caller_of(Principal(Principal.key_of("address 192.0.2.1")), request("")) != limits.caller_of(
            ANONYMOUS, request("192.0.2.1")
        )

    def test_the_database_is_told_neither_the_address_nor_the_principal(self) -> None:
        quota = limits.quota_of("address 192.0.2.1")
        assert "192" not in quota or len(quota) == 64
        assert quota == limits.quota_of("address 192.0.2.1") != limits.quota_of("address 192.0.2.2")
