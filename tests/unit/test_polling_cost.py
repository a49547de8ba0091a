"""What a look into the database costs a process that follows many streams of others."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.backends.utils import CursorWrapper
from django.test import override_settings
from mcp_types import InitializeRequestParams

from mcp_django.cursors import Cursor
from mcp_django.feeds import Feed
from mcp_django.live import LiveSession
from mcp_django.models import Event, Process, Session, Stream
from mcp_django.sse import Place
from mcp_django.store import ORMStore
from mcp_django.streams import Streams
from mcp_django.watcher import EVERYTHING
from tests.unit import records
from tests.unit.waiting import in_thread

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.django_db(
        transaction=True,
        available_apps=["django.contrib.contenttypes", "django.contrib.auth", "mcp_django"],
    ),
]

CURSORS = 1000


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SQL that any thread of this process has executed."""
    seen: list[str] = []
    execute = CursorWrapper.execute

    def noted(self: CursorWrapper, sql: str, params: Any = None) -> Any:
        seen.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    return seen


@pytest.fixture
def streams(orm_store: ORMStore) -> Iterator[Streams]:
    """Those of a process that looks when the test says so."""
    with override_settings(MCP_DJANGO_POLL_INTERVAL=3600.0):
        made = Streams(orm_store)
        yield made
        made.watcher.stop()
        made.wakeups.stop()


def produced_elsewhere(sessions: int) -> list[tuple[Session, int]]:
    """Streams of another, living process, with two events each."""
    elsewhere = Process.objects.create(host="elsewhere", pid=1, version="1")
    owners = [records.row() for _ in range(sessions)]
    found = [(owners[index % sessions], secrets.randbits(63)) for index in range(CURSORS)]
    Stream.objects.bulk_create(Stream(pk=stream, session=owner, process=elsewhere.pk) for owner, stream in found)
    Event.objects.bulk_create(
        Event(stream_id=stream, sequence=sequence, payload="{}") for _owner, stream in found for sequence in (1, 2)
    )
    return found


async def follow(streams: Streams, store: ORMStore, found: list[tuple[Session, int]]) -> list[Cursor]:
    """One connection on each, which has not had its second event."""
    client = InitializeRequestParams.model_validate(records.PARAMS)
    live: dict[str, LiveSession] = {}
    cursors = []
    for owner, stream in found:
        if owner.pk not in live:
            record = await store.load(owner.pk)
            assert record is not None
            live[owner.pk] = LiveSession(store, record, client)
        feed = Feed(stream, owner.pk, last=1)
        cursors.append(Cursor(streams, live[owner.pk], feed, Place(stream, 1), uuid.uuid4()))
        streams.attach(cursors[-1])
    return cursors


@pytest.mark.parametrize("sessions", [200, 1000])
async def test_a_thousand_cursors_cost_two_queries_a_look(
    sessions: int, streams: Streams, orm_store: ORMStore, statements: list[str]
) -> None:
    cursors = await follow(streams, orm_store, await in_thread(produced_elsewhere, sessions))
    assert len(streams.cursors) == CURSORS

    statements.clear()
    await streams.watcher.look({EVERYTHING})

    assert len(statements) == 2, statements
    assert all(sql.startswith("SELECT") for sql in statements)
    # It was not for nothing: each has found out that there is more.
    assert {cursor.feed.last for cursor in cursors} == {2}
    assert {cursor.ending for cursor in cursors} == {None}
    for cursor in cursors:
        streams.detach(cursor)
