"""Rows: changes are conditional UPDATEs, and a session that ended never comes back."""

from __future__ import annotations

import json
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
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from mcp_django.endpoint import respond
from mcp_django.http import Request
from mcp_django.models import DIGEST_LENGTH, Process, Session, digest_of
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
