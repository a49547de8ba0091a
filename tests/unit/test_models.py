"""Rows: changes are conditional UPDATEs, and a session that ended never comes back."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connection
from django.http import HttpRequest
from django.test import override_settings
from django.utils import timezone
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from mcp_django.endpoint import respond
from mcp_django.exceptions import HandlerError
from mcp_django.http import Request
from mcp_django.models import (
    DIGEST_LENGTH,
    Cancellation,
    ClientRequest,
    Event,
    Process,
    Session,
    Stream,
    Topic,
    digest_of,
    with_subscription,
)
from mcp_django.server import mcp
from mcp_django.store import ORMStore
from tests.unit import records
from tests.unit.records import columns

pytestmark = pytest.mark.django_db

CHANGES: dict[str, Callable[[Session], bool]] = {
    "mark_initialized": lambda session: session.mark_initialized(timezone.now()),
    "set_log_level": lambda session: session.set_log_level("debug"),
    "mark_restored": lambda session: session.mark_restored(uuid.uuid4(), "f" * 64),
    "replace_state": lambda session: session.replace_state('{"a":1}', version=0),
    "end": lambda session: session.end("by the test"),
    "expire": lambda session: session.end("too long idle", "expired"),
    "end_all": lambda session: Session.objects.filter(pk=session.pk).end_all("by the test") == 1,
    "touch": lambda session: Session.objects.filter(pk=session.pk).touch(*later(session)) == 1,
}


def later(session: Session) -> tuple[Any, Any]:
    return session.last_seen_at + timedelta(minutes=5), session.expires_at + timedelta(minutes=5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_an_active_session_is_one_update(
    change: Callable[[Session], bool], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    session = records.row()
    before = columns(session)
    with django_assert_num_queries(1) as queries:
        assert change(session) is True
    assert queries.captured_queries[0]["sql"].startswith("UPDATE")
    assert columns(session) != before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("status", ["terminated", "expired"])
def test_no_change_touches_a_session_that_has_ended(change: Callable[[Session], bool], status: str) -> None:
    session = records.row()
    assert session.end("the first reason", status)
    before = columns(session)
    assert change(session) is False
    assert columns(session) == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_change_touches_another_session(change: Callable[[Session], bool]) -> None:
    other = records.row()
    before = columns(other)
    change(records.row())
    assert columns(other) == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_a_session_that_was_pruned_says_so(change: Callable[[Session], bool]) -> None:
    session = records.row()
    Session.objects.all().delete()
    assert change(session) is False


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("mark_initialized", True),
        ("set_log_level", True),
        ("end", True),
        ("end_all", True),
        ("mark_restored", False),
        ("replace_state", False),
        ("touch", False),
    ],
)
def test_the_epoch_rises_with_what_processes_hold_in_memory(name: str, raised: bool) -> None:
    session = records.row(epoch=3)
    CHANGES[name](session)
    assert columns(session)["epoch"] == (4 if raised else 3)


@override_settings(MCP_DJANGO_MAX_SUBSCRIPTIONS=1)
def test_a_change_of_subscriptions_keeps_them_and_raises_the_epoch_or_does_neither() -> None:
    session = records.row(epoch=3)
    assert session.change_subscription("lib://a", True) is True
    before = columns(session)
    assert (before["subscriptions_json"], before["epoch"]) == ('["lib://a"]', 4)
    with pytest.raises(HandlerError, match="MCP_DJANGO_MAX_SUBSCRIPTIONS"):
        session.change_subscription("lib://b", True)
    assert columns(session) == before
    session.end("by the test")
    before = columns(session)
    assert session.change_subscription("lib://a", False) is False
    assert columns(session) == before


@given(steps=st.lists(st.tuples(st.sampled_from("abcdAü"), st.booleans())), limit=st.integers(1, 5))
def test_subscriptions_are_a_set_in_the_order_in_which_they_were_made(
    steps: list[tuple[str, bool]], limit: int
) -> None:
    text, expected = "[]", list[str]()
    with override_settings(MCP_DJANGO_MAX_SUBSCRIPTIONS=limit):
        for uri, subscribed in steps:
            if subscribed and uri not in expected and len(expected) == limit:
                with pytest.raises(HandlerError):
                    with_subscription(text, uri, subscribed)
                continue
            text = with_subscription(text, uri, subscribed)
            expected = [kept for kept in expected if kept != uri] + [uri] * subscribed
            assert json.loads(text) == expected
            assert text.isascii()


def test_the_end_keeps_when_why_and_how() -> None:
    session = records.row()
    before = timezone.now()
    assert session.end("x" * 500, "expired")
    session.refresh_from_db()
    assert session.status == Session.Status.EXPIRED
    assert session.end_reason == "x" * 100
    assert session.ended_at is not None
    assert before <= session.ended_at <= timezone.now()


def test_ending_many_counts_those_that_were_still_active() -> None:
    ended = records.row()
    ended.end("before")
    active = [records.row() for _ in range(3)]
    assert Session.objects.end_all("by an admin") == 3
    assert Session.objects.end_all("again") == 0
    for session in active:
        session.refresh_from_db()
        assert (session.status, session.end_reason) == ("terminated", "by an admin")
    ended.refresh_from_db()
    assert ended.end_reason == "before"


def test_a_state_is_replaced_only_while_its_version_is_the_one_that_was_read() -> None:
    session = records.row()
    assert session.replace_state('{"n":1}', version=0)
    assert not session.replace_state('{"n":2}', version=0)
    assert session.replace_state('{"n":2}', version=1)
    session.refresh_from_db()
    assert (session.state, session.state_version) == ({"n": 2}, 2)


def test_restores_are_counted() -> None:
    session = records.row()
    process = uuid.uuid4()
    for _ in range(3):
        session.mark_restored(process, "print")
    session.refresh_from_db()
    assert (session.restore_count, session.last_process, session.tools_fingerprint) == (3, process, "print")


def test_a_touch_moves_forward_only() -> None:
    now = timezone.now()
    session = records.row(now=now)
    earlier, minute = now - timedelta(minutes=1), timedelta(minutes=1)
    assert Session.objects.touch(earlier, earlier) == 0
    assert Session.objects.touch(now, now) == 0
    assert Session.objects.touch(now + minute, now + 2 * minute) == 1
    session.refresh_from_db()
    assert (session.last_seen_at, session.expires_at) == (now + minute, now + 2 * minute)


def test_a_touch_does_not_wake_what_has_expired() -> None:
    now = timezone.now()
    session = records.row(now=now - timedelta(days=15))
    assert Session.objects.touch(now, now + timedelta(days=14)) == 0
    assert columns(session)["expires_at"] < now


def test_sessions_are_asked_for_by_what_they_are() -> None:
    now = timezone.now()
    user = get_user_model().objects.create_user("ann")
    active = records.row(owner_id=user.pk)
    overdue = records.row(now=now - timedelta(days=15))
    expired = records.row(status="expired")
    terminated = records.row(status="terminated", server="other")

    def found(rows: Any) -> set[str]:
        return {row.pk for row in rows}

    assert found(Session.objects.active()) == {active.pk}
    assert found(Session.objects.active(now - timedelta(days=10))) == {active.pk, overdue.pk}
    assert found(Session.objects.expired()) == {overdue.pk, expired.pk}
    assert found(Session.objects.ended()) == {expired.pk, terminated.pk}
    assert found(Session.objects.of_server("other")) == {terminated.pk}
    assert found(Session.objects.of_owner(user)) == {active.pk}
    assert found(Session.objects.of_server("default").active().of_owner(user)) == {active.pk}


def test_a_session_outlives_its_owners_row() -> None:
    user = get_user_model().objects.create_user("ann")
    session = records.row(owner_id=user.pk, principal=f"user:{user.pk}")
    key = f"user:{user.pk}"
    user.delete()
    session.refresh_from_db()
    assert session.owner is None
    assert session.principal == key


def test_a_session_is_found_by_its_raw_id() -> None:
    raw_id = secrets.token_urlsafe(32)
    session = records.row(digest_of(raw_id))
    assert Session.objects.for_id(raw_id) == session
    with pytest.raises(Session.DoesNotExist):
        Session.objects.for_id(raw_id + "x")
    with pytest.raises(Session.DoesNotExist):
        Session.objects.for_id(session.pk)


@pytest.mark.parametrize("raw_id", ["", "a", "é" * 1000, "\x00", "\ud800", "' OR 1=1 --"])
def test_any_text_has_a_digest_that_fits_the_key(raw_id: str) -> None:
    digest = digest_of(raw_id)
    assert len(digest) == DIGEST_LENGTH
    assert int(digest, 16) >= 0
    assert digest == digest_of(raw_id)
    with pytest.raises(Session.DoesNotExist):
        Session.objects.for_id(raw_id)


@pytest.mark.django_db(transaction=True)
def test_the_raw_id_is_stored_in_no_column_of_no_table(orm_store: ORMStore) -> None:
    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": records.PARAMS})
    request = Request("POST", headers, body.encode(), lambda body: HttpRequest())
    response = async_to_sync(respond)(mcp, request)
    assert response.status == 200, response.body
    raw_id = dict(response.headers)["Mcp-Session-Id"]
    assert Session.objects.for_id(raw_id).client_name == "unit"

    seen = 0
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            for row in cursor.fetchall():
                seen += 1
                assert raw_id not in " ".join(map(str, row)), table
    assert seen


def test_a_session_is_shown_by_the_beginning_of_its_digest_and_its_client() -> None:
    session = records.row()
    assert str(session) == f"{session.pk[:12]} (unit)"
    assert str(Session(pk="a" * 64)) == "aaaaaaaaaaaa (unknown client)"


def test_json_columns_are_read_as_values() -> None:
    session = records.row(subscriptions_json='["a://b"]')
    assert session.initialize_params == records.PARAMS
    assert session.state == {}
    assert session.subscriptions == ["a://b"]


def test_a_json_column_that_was_tampered_with_is_an_error_that_says_what_it_found() -> None:
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        Session(state_json="[]").state  # noqa: B018


class TestProcess:
    def test_its_lease_is_renewed_by_the_databases_clock(self) -> None:
        process = Process.objects.create(host="here", pid=7, version="1")
        process.refresh_from_db()
        first = process.seen_at
        Process.objects.update(seen_at=first - timedelta(hours=1))
        assert process.renew() is True
        process.refresh_from_db()
        assert process.seen_at >= first

    def test_a_lease_that_was_pruned_cannot_be_renewed(self) -> None:
        assert Process(pk=uuid.uuid4()).renew() is False

    def test_it_is_shown_by_host_and_pid(self) -> None:
        assert str(Process(host="here", pid=7)) == "here 7"


PROCESS, READER = uuid.uuid4(), uuid.uuid4()


def stream_row(**values: Any) -> Stream:
    """A stream of a new session."""
    fields = {"pk": secrets.randbits(63), "session": records.row(), "process": PROCESS} | values
    return Stream.objects.create(**fields)


def stream_columns(stream: Stream) -> dict[str, Any]:
    return dict(Stream.objects.values().get(pk=stream.pk))


STREAM_CHANGES: dict[str, Callable[[Stream], bool]] = {
    "finish": lambda stream: stream.finish(),
    "take_over": lambda stream: stream.take_over(READER, PROCESS, 9),
    "take_if_free": lambda stream: stream.take_if_free(READER, PROCESS, 9, judge=False),
    "take_if_free, judging": lambda stream: stream.take_if_free(READER, PROCESS, 9, judge=True),
    "release": lambda stream: stream.release(READER, 9),
    "deliver": lambda stream: stream.deliver(READER, 9),
}
stream_changes = pytest.mark.parametrize("change", STREAM_CHANGES.values(), ids=STREAM_CHANGES)


class TestStream:
    @stream_changes
    def test_a_change_is_one_update_of_its_own_row(
        self, change: Callable[[Stream], bool], django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        stream, other = stream_row(reader=READER), stream_row(reader=READER)
        before, others = stream_columns(stream), stream_columns(other)
        with django_assert_num_queries(1) as queries:
            assert change(stream) is True
        assert queries.captured_queries[0]["sql"].startswith("UPDATE")
        assert stream_columns(stream) != before
        assert stream_columns(other) == others

    @stream_changes
    def test_a_change_of_one_that_was_pruned_says_so(self, change: Callable[[Stream], bool]) -> None:
        stream = stream_row(reader=READER)
        Stream.objects.all().delete()
        assert change(stream) is False
        assert not Stream.objects.exists()

    @pytest.mark.parametrize("name", ["take_if_free", "release", "deliver"])
    def test_what_only_its_reader_may_do_another_does_not(self, name: str) -> None:
        stream = stream_row(reader=uuid.uuid4(), reader_process=PROCESS)
        before = stream_columns(stream)
        assert STREAM_CHANGES[name](stream) is False
        assert stream_columns(stream) == before

    def test_one_is_finished_once(self) -> None:
        stream = stream_row()
        assert stream.finish() is True
        before = stream_columns(stream)
        assert before["finished_at"] is not None
        assert stream.finish() is False
        assert stream_columns(stream) == before

    def test_it_says_what_it_answers_and_by_which_method(self) -> None:
        assert Stream(request_ids_json='["7",7]').request_ids == ["7", 7]
        assert str(Stream(method="tools/call")) == "tools/call"
        assert str(Stream(standalone=True)) == "standalone stream"

    def test_it_goes_with_its_session(self) -> None:
        stream = stream_row()
        Event.objects.create(stream=stream, sequence=1, payload="{}")
        ClientRequest.objects.create(session=stream.session, stream=stream, method="ping")
        Cancellation.objects.create(session=stream.session, request_key="7")
        stream.session.delete()
        for model in (Stream, Event, ClientRequest, Cancellation):
            assert not model._default_manager.exists(), model

    def test_streams_are_asked_for_by_what_they_are(self) -> None:
        now = timezone.now()
        ago = now - timedelta(hours=1)
        alive = Process.objects.create(host="here", pid=7, version="1").pk
        living = stream_row(process=alive, created_at=ago)
        orphan = stream_row(created_at=ago)
        young = stream_row()
        finished = stream_row(created_at=ago, finished_at=ago)
        stream_row(standalone=True, process=None, created_at=ago)

        def found(rows: Any) -> set[int]:
            return {row.pk for row in rows}

        assert found(Stream.objects.unfinished()) == {living.pk, orphan.pk, young.pk}
        assert found(Stream.objects.finished_before(now)) == {finished.pk}
        assert found(Stream.objects.finished_before(ago)) == set()
        assert found(Stream.objects.orphaned(now - timedelta(minutes=1), Process.LEASE)) == {orphan.pk}
        assert found(Stream.objects.orphaned(now + timedelta(minutes=1), Process.LEASE)) == {orphan.pk, young.pk}


class TestClientRequest:
    @pytest.mark.parametrize("name", ["answer", "abandon"])
    def test_one_is_settled_once_by_one_update(
        self, name: str, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        stream = stream_row()
        question = ClientRequest.objects.create(session=stream.session, stream=stream, method="ping")
        other = ClientRequest.objects.create(session=stream.session, stream=stream, method="ping")
        assert set(ClientRequest.objects.open()) == {question, other}
        settle = {"answer": lambda: question.answer('{"a":1}'), "abandon": question.abandon}
        with django_assert_num_queries(1):
            assert settle[name]() is True
        question.refresh_from_db()
        assert question.status == {"answer": "answered", "abandon": "abandoned"}[name]
        assert question.answer_json == {"answer": '{"a":1}', "abandon": ""}[name]
        assert question.settled_at is not None
        for again in settle.values():
            assert again() is False
        assert set(ClientRequest.objects.open()) == {other}

    def test_one_of_another_session_is_left_alone(self) -> None:
        stream = stream_row()
        question = ClientRequest.objects.create(session=stream.session, stream=stream, method="ping")
        foreign = ClientRequest(pk=question.pk, session_id=records.row().pk)
        assert foreign.answer("{}") is False
        assert foreign.abandon() is False
        assert ClientRequest.objects.open().get() == question

    def test_it_is_shown_by_its_method(self) -> None:
        assert str(ClientRequest(method="roots/list")) == "roots/list"


request_ids = st.integers() | st.text() | st.text("aA0-_. ", max_size=70)


class TestCancellation:
    @given(one=request_ids, other=request_ids)
    @example("a", "A")
    @example("a", "a ")
    @example("", " ")
    @example("x" * 64, "x" * 65)
    def test_two_ids_have_one_key_only_if_they_are_one_as_text(self, one: str | int, other: str | int) -> None:
        assert (Cancellation.key_of(one) == Cancellation.key_of(other)) == (str(one) == str(other))

    @given(id=request_ids)
    @example("\ud800")
    @example("\0")
    @example(2**5000)
    def test_every_key_fits_its_column_and_means_one_thing_in_every_collation(self, id: str | int) -> None:
        key = Cancellation.key_of(id)
        assert 0 < len(key) <= (Cancellation._meta.get_field("request_key").max_length or 0)
        assert re.fullmatch("[a-z0-9_.:-]+", key)

    @given(digest=st.text("0123456789abcdef", min_size=64, max_size=64))
    def test_no_id_passes_for_the_digest_of_another(self, digest: str) -> None:
        assert Cancellation.key_of(f"sha256:{digest}") != f"sha256:{digest}"

    @pytest.mark.parametrize("id", [7, "7", -1, "req_1", "0a1b-2c3d", "x" * 64])
    def test_short_plain_ids_can_be_read_in_the_admin(self, id: str | int) -> None:
        assert Cancellation.key_of(id) == str(id)
        assert str(Cancellation(request_key=Cancellation.key_of(id))) == str(id)


class TestTopic:
    @given(
        one=st.tuples(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9)),
        other=st.tuples(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9)),
    )
    @example(("a", "b", ""), ("a", "", "b"))
    @example(('a", "b', "c", ""), ("a", 'b", "c', ""))
    def test_two_topics_have_two_keys(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        assume(one != other)
        assert Topic.id_of(*one) != Topic.id_of(*other)

    def test_one_is_raised_and_never_lowered(self) -> None:
        topic = Topic(pk=Topic.id_of("s", "resource", "lib://a"), server="s", kind="resource", uri="lib://a")
        for version, expected in [(3, 3), (5, 5), (4, 5), (5, 5), (6, 6)]:
            topic.raise_to(version)
            row = Topic.objects.get()
            assert (row.server, row.kind, row.uri, row.version) == ("s", "resource", "lib://a", expected)

    def test_it_is_shown_by_its_uri_or_its_kind(self) -> None:
        assert str(Topic(kind="resource", uri="lib://a")) == "lib://a"
        assert str(Topic(kind="tools")) == "tools"


def test_an_event_is_shown_by_its_sequence() -> None:
    assert str(Event(sequence=7)) == "event 7"
