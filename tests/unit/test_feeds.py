"""Feeds: what a process holds of a stream is right or nothing, and bounded."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_django import feeds
from mcp_django.cursors import Cursor
from mcp_django.feeds import TAIL_CHARACTERS, TAIL_EVENTS, Feed
from mcp_django.models import digest_of
from tests.unit.waiting import SECONDS

DIGEST = digest_of("a session")


class Woken:
    """A cursor that counts how often it is told to look."""

    def __init__(self) -> None:
        self.times = 0

    def wake(self) -> None:
        self.times += 1


def feed_with(*cursors: Woken, **values: Any) -> Feed:
    feed = Feed(1, DIGEST, **values)
    feed.cursors.update(cast(list[Cursor], cursors))
    return feed


def filled(feed: Feed, last: int, payload: str = "{}") -> Feed:
    for sequence in range(feed.last + 1, last + 1):
        feed.push(sequence, payload, finished=False)
    return feed


def held(feed: Feed) -> list[tuple[int, str]]:
    """The events that a feed holds in memory."""
    return list(feed._tail)


class TestTail:
    def test_what_was_pushed_is_there_for_every_place_from_which_nothing_is_missing(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 5)
        for position in range(6):
            assert feed.after(position) == [(sequence, "{}") for sequence in range(position + 1, 6)]

    def test_a_new_feed_holds_nothing(self) -> None:
        assert Feed(1, DIGEST).after(0) is None
        assert Feed(1, DIGEST, last=7).after(7) is None

    def test_a_long_stream_is_held_in_part_and_the_rest_is_to_be_read(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 3 * TAIL_EVENTS)
        assert len(held(feed)) == TAIL_EVENTS
        first = 2 * TAIL_EVENTS
        assert feed.after(first) == held(feed)
        assert feed.after(first - 1) is None
        assert feed.after(0) is None

    def test_large_events_are_held_up_to_a_bound(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 10, "x" * (TAIL_CHARACTERS // 4))
        assert [sequence for sequence, _payload in held(feed)] == [7, 8, 9, 10]

    def test_an_event_larger_than_the_bound_is_held_alone(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 3)
        feed.push(4, "x" * (2 * TAIL_CHARACTERS), finished=False)
        assert [sequence for sequence, _payload in held(feed)] == [4]
        feed.push(5, "{}", finished=False)
        assert [sequence for sequence, _payload in held(feed)] == [5]

    def test_a_feed_that_began_in_the_middle_knows_what_it_does_not_hold(self) -> None:
        feed = Feed(1, DIGEST, last=10)
        feed.push(11, "{}", finished=False)
        assert feed.after(10) == [(11, "{}")]
        assert feed.after(9) is None

    def test_what_others_wrote_behind_the_tail_is_to_be_read(self) -> None:
        feed = filled(Feed(1, DIGEST), 3)
        feed.saw(4, finished=False)
        assert feed.after(3) is None
        assert feed.after(0) is None

    @given(sizes=st.lists(st.integers(0, TAIL_CHARACTERS + 1), max_size=2 * TAIL_EVENTS))
    def test_it_is_always_the_newest_events_without_a_gap_and_bounded(self, sizes: list[int]) -> None:
        feed = Feed(1, DIGEST, produced=True)
        events = [(sequence, "x" * size) for sequence, size in enumerate(sizes, 1)]
        for sequence, payload in events:
            feed.push(sequence, payload, finished=False)
        tail = held(feed)
        assert tail == events[len(events) - len(tail) :]
        assert len(tail) <= TAIL_EVENTS
        assert len(tail) <= 1 or sum(len(payload) for _sequence, payload in tail) <= TAIL_CHARACTERS
        assert bool(tail) == bool(events)
        for position in range(len(events) + 1):
            found = feed.after(position)
            assert found is None or found == events[position:]
            assert (found is None) == (len(events) - position > len(tail) or not events)

    @given(
        pushed=st.integers(0, 10),
        lost=st.booleans(),
        seen=st.lists(st.integers(0, 30), max_size=5),
        place=st.integers(0, 30),
    )
    def test_whoever_writes_the_stream_no_event_is_passed_over(
        self, pushed: int, lost: bool, seen: list[int], place: int
    ) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), pushed)
        if lost:
            feed.lose()
        for last in seen:
            feed.saw(last, finished=False)
        last = max([pushed, *seen])
        assert feed.last == last
        found = feed.after(min(place, last))
        if found is not None:
            assert [sequence for sequence, _payload in found] == list(range(min(place, last) + 1, last + 1))


class TestEnd:
    def test_the_last_event_ends_it(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 2)
        assert (feed.last, feed.finished) == (2, False)
        feed.push(3, "{}", finished=True)
        assert (feed.last, feed.finished) == (3, True)
        assert feed.after(2) == [(3, "{}")]

    def test_the_end_is_seen_where_somebody_else_wrote_it(self) -> None:
        feed = Feed(1, DIGEST)
        feed.saw(3, finished=True)
        assert (feed.last, feed.finished) == (3, True)

    def test_an_older_look_takes_nothing_back(self) -> None:
        """Two looks at the store may come back in the wrong order."""
        feed = Feed(1, DIGEST)
        feed.saw(3, finished=True)
        feed.saw(2, finished=False)
        assert (feed.last, feed.finished) == (3, True)

    def test_a_producer_that_lost_the_stream_holds_nothing_of_it_and_follows(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 2)
        feed.lose()
        assert not feed.produced
        assert held(feed) == []
        assert feed.after(0) is None
        feed.saw(3, finished=True)
        assert (feed.last, feed.finished) == (3, True)

    def test_after_it_was_lost_the_tail_is_bounded_as_before(self) -> None:
        feed = filled(Feed(1, DIGEST, produced=True), 3, "x" * (TAIL_CHARACTERS // 2))
        feed.lose()
        filled(feed, 10, "x" * (TAIL_CHARACTERS // 4))
        assert [sequence for sequence, _payload in held(feed)] == [7, 8, 9, 10]


class TestWaking:
    def test_every_cursor_is_told_of_every_event(self) -> None:
        cursors = [Woken(), Woken()]
        filled(feed_with(*cursors, produced=True), 3)
        assert [cursor.times for cursor in cursors] == [3, 3]

    def test_nobody_is_told_of_what_is_known(self) -> None:
        cursor = Woken()
        feed = feed_with(cursor, last=3)
        feed.saw(3, finished=False)
        feed.saw(2, finished=False)
        assert cursor.times == 0
        feed.saw(4, finished=False)
        feed.saw(4, finished=True)
        assert cursor.times == 2
        feed.saw(4, finished=True)
        feed.saw(3, finished=False)
        assert cursor.times == 2

    def test_a_cursor_that_leaves_when_it_is_told_keeps_nobody_else_from_hearing(self) -> None:
        class Leaving(Woken):
            def wake(self) -> None:
                super().wake()
                feed.cursors.discard(cast(Cursor, self))

        leaving = [Leaving() for _ in range(5)]
        feed = feed_with(*leaving)
        feed.push(1, "{}", finished=False)
        assert [cursor.times for cursor in leaving] == [1] * 5
        assert not feed.cursors


def test_a_reader_in_another_thread_sees_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TAIL_EVENTS", 4)
    feed = Feed(1, DIGEST, produced=True)
    total = 3000
    gaps: list[Any] = []
    started = threading.Event()

    def read() -> None:
        position = 0
        while position < total:
            started.set()
            found = feed.after(position)
            if found is None:
                # As a cursor does that reads from the store.
                position = max(position, feed.last - 2)
            elif found:
                if [sequence for sequence, _payload in found] != list(range(position + 1, found[-1][0] + 1)):
                    gaps.append((position, found))
                position = found[-1][0]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert started.wait(SECONDS)
    filled(feed, total)
    reader.join(SECONDS)
    assert not reader.is_alive()
    assert gaps == []
