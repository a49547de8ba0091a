"""Processes: their leases, who is dead, and who may say so."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given, strategies

from mcp_django import batches, processes, visits
from mcp_django.models import Process
from mcp_django.processes import Heartbeat, this_process
from mcp_django.store import ORMStore
from tests.unit import records
from tests.unit.waiting import SECONDS, eventually

LEASE = int(Process.LEASE.total_seconds())


@pytest.mark.django_db
class TestProcesses:
    def alive(self, process: uuid.UUID) -> bool:
        return bool(visits.read([batches.ReadProcess(process)])[0])

    def lease(self, **values: Any) -> uuid.UUID:
        fields = {"pk": uuid.uuid4(), "host": socket.gethostname(), "pid": os.getpid(), "version": "1"} | values
        return Process.objects.create(**fields).pk

    def test_one_that_renews_its_lease_is_alive(self) -> None:
        process = uuid.uuid4()
        for _ in range(2):
            visits.write([batches.RenewLease(process, "1")])
        assert self.alive(process)
        assert Process.objects.get().pid == os.getpid()

    def test_one_whose_lease_ran_out_is_dead(self) -> None:
        process = self.lease()
        assert self.alive(process)
        Process.objects.update(seen_at=timezone.now() - Process.LEASE - timedelta(minutes=1))
        assert not self.alive(process)

    def test_one_of_another_machine_is_judged_by_its_lease_alone(self) -> None:
        assert self.alive(self.lease(host="elsewhere", pid=2**31 - 1))

    def test_one_of_this_machine_that_was_killed_is_dead_before_its_lease_runs_out(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        process = self.lease(pid=child.pid)
        assert self.alive(process)
        child.communicate(b"\n", timeout=SECONDS)
        assert not self.alive(process)

    def test_one_of_another_user_of_this_machine_is_alive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def not_yours(pid: int, signal: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "kill", not_yours)
        assert self.alive(self.lease())


class Posted:
    """What takes a heartbeat's renewals, in place of a lane."""

    def __init__(self) -> None:
        self.items: list[batches.RenewLease] = []
        self.done: list[Callable[[], None]] = []

    def __call__(self, item: batches.RenewLease, done: Callable[[], None]) -> None:
        self.items.append(item)
        self.done.append(done)


class TestHeartbeat:
    def test_renews_the_lease_of_this_process_from_a_thread_until_it_is_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "RENEW_SECONDS", 0.001)
        posted = Posted()
        heartbeat = Heartbeat(posted)
        heartbeat.start()
        heartbeat.start()
        try:
            eventually(lambda: len(posted.items) > 2, "the lease is renewed")
            assert {renewal.process for renewal in posted.items} == {this_process()}
        finally:
            heartbeat.stop()

    def test_starts_again_after_it_was_stopped(self) -> None:
        posted = Posted()
        heartbeat = Heartbeat(posted)
        for count in (1, 2):
            heartbeat.start()
            eventually(lambda count=count: len(posted.items) == count, "the lease is renewed")  # type: ignore[misc]
            heartbeat.stop()

    def test_a_lease_outlives_some_renewals_that_fail(self) -> None:
        assert 3 * processes.RENEW_SECONDS < LEASE

    @pytest.mark.django_db(transaction=True)
    def test_begins_when_the_store_first_keeps_a_session(self, orm_store: ORMStore, monkeypatch: Any) -> None:
        started: list[Heartbeat] = []
        monkeypatch.setattr(Heartbeat, "start", lambda heartbeat: started.append(heartbeat))
        asyncio.run(orm_store.head("unknown"))
        assert not started
        asyncio.run(orm_store.create(records.record()))
        assert started

    @pytest.mark.django_db(transaction=True)
    def test_what_the_database_has_taken_counts_as_renewed(self, orm_store: ORMStore) -> None:
        done: list[bool] = []
        orm_store.writes.post(batches.RenewLease(this_process(), "1"), lambda: done.append(True))
        eventually(lambda: done, "the lease is renewed")
        assert Process.objects.alive().filter(pk=this_process()).exists()


class Beat:
    """A heartbeat whose clock and whose database are the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self._posted = Posted()
        self.heartbeat = Heartbeat(self._posted)
        self.start()

    def start(self) -> None:
        self.heartbeat.start()
        eventually(lambda: self._posted.done, "the first renewal is posted")

    def restart(self) -> None:
        self.heartbeat.stop()
        self._posted.done.clear()
        self.start()

    def renewed_at(self, *seconds: float) -> None:
        """The database takes a renewal at each of these times."""
        for self.now in seconds:
            self._posted.done[0]()

    def may_judge_at(self, seconds: float) -> bool:
        self.now = seconds
        return self.heartbeat.may_judge


@pytest.fixture(scope="module")
def beating() -> Iterator[Beat]:
    with pytest.MonkeyPatch.context() as patch:
        beat = Beat()
        patch.setattr(processes, "monotonic", lambda: beat.now)
        yield beat
        beat.heartbeat.stop()


@pytest.fixture
def beat(beating: Beat) -> Beat:
    beating.restart()
    return beating


class TestJudging:
    """Who judges others by their leases must have reached the database for a full lease: after a failover, or when
    this process was frozen, everybody's lease has run out."""

    def test_not_before_the_database_was_reached(self, beat: Beat) -> None:
        assert not beat.may_judge_at(0)
        assert not beat.may_judge_at(10 * LEASE)

    def test_not_before_a_full_lease_of_renewals(self, beat: Beat) -> None:
        for seconds in range(0, LEASE, 3):
            beat.renewed_at(seconds)
            assert not beat.may_judge_at(seconds)
        assert not beat.may_judge_at(LEASE - 0.001)
        assert beat.may_judge_at(LEASE)

    def test_not_if_the_last_renewal_is_a_while_ago(self, beat: Beat) -> None:
        beat.renewed_at(*range(0, 31, 3))
        assert beat.may_judge_at(30 + LEASE / 2 - 0.001)
        assert not beat.may_judge_at(30 + LEASE / 2)
        assert not beat.may_judge_at(3000)

    def test_not_after_a_gap_until_another_full_lease_has_passed(self, beat: Beat) -> None:
        """A failover: everybody else comes back within a lease, and is not to be taken for dead before."""
        beat.renewed_at(*range(0, 31, 3))
        assert beat.may_judge_at(30)
        beat.renewed_at(50)
        assert not beat.may_judge_at(50)
        beat.renewed_at(*range(53, 50 + LEASE, 3))
        assert not beat.may_judge_at(50 + LEASE - 0.001)
        assert beat.may_judge_at(50 + LEASE)

    def test_a_renewal_that_comes_a_little_late_is_no_gap(self, beat: Beat) -> None:
        beat.renewed_at(*range(0, 31, 3), 30 + LEASE / 2 - 0.5)
        assert beat.may_judge_at(30 + LEASE / 2)

    def test_not_after_a_new_start(self, beat: Beat) -> None:
        beat.renewed_at(*range(0, 31, 3))
        assert beat.may_judge_at(30)
        beat.restart()
        assert not beat.may_judge_at(30)
        beat.renewed_at(30)
        assert not beat.may_judge_at(31)

    @given(
        gaps=strategies.lists(strategies.integers(0, LEASE), min_size=1, max_size=40),
        since=strategies.integers(0, 2 * LEASE),
    )
    def test_only_when_no_look_back_over_a_lease_meets_a_gap(self, beating: Beat, gaps: list[int], since: int) -> None:
        beating.restart()
        times = [sum(gaps[: number + 1]) for number in range(len(gaps))]
        beating.renewed_at(*times)
        now = times[-1] + since
        quiet = [b - a for a, b in pairwise([*times, now]) if b > now - LEASE]
        unbroken = times[0] <= now - LEASE and all(gap < LEASE / 2 for gap in quiet)
        if not unbroken:
            assert not beating.may_judge_at(now)
        if times[0] <= now - 2 * LEASE and all(b - a < LEASE / 2 for a, b in pairwise([*times, now])):
            assert beating.may_judge_at(now)
