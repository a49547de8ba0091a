"""A project with a read replica: it lags, and must never be asked whether a session lives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections

from demo_project.database import from_url
from mcp_django.models import Session as Row
from tests.protocol.client import Client
from tests.protocol.processes import Processes

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker, Settings

REPLICA = "replica"

pytestmark = pytest.mark.anyio


class ReadsFromReplica:
    """The router of Django's documentation: one database for writing, another for reading."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return REPLICA

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool:
        return True


@pytest.fixture(scope="module", autouse=True)
def replica(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A second database with the same tables, to which no row ever comes: a replica that lags without end."""
    directory = tmp_path_factory.mktemp("replica")
    configured = from_url(f"sqlite:///{directory / 'replica.sqlite3'}", directory)
    connections.settings[REPLICA] = connections.configure_settings({"default": configured})["default"]
    with django_db_blocker.unblock():
        call_command("migrate", database=REPLICA, verbosity=0)
        yield
        connections[REPLICA].close()
    del connections[REPLICA]
    del connections.settings[REPLICA]


@pytest.fixture(autouse=True)
def router(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = ["tests.protocol.test_replica.ReadsFromReplica"]


async def test_a_replica_that_lags_never_makes_a_session_unknown(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    assert not await Row.objects.aexists(), "The router does send reads to the replica."
    assert (await session.request("ping")).result == {}
    for tool in ("count", "acount"):
        assert not (await session.call_tool(tool)).get("isError")
    assert await session.call("state") == {"value": {"count": 2}}
    await session.request("logging/setLevel", {"level": "debug"})
    await server_processes.another()
    facts = await session.call("facts")
    assert facts["log_level"] == "debug"
    assert facts["restored"]["count"] == 1
    assert await session.call("count") == {"value": 3}
    assert (await session.delete()).status == 204
    assert (await session.request("ping")).status == 404
    row = await Row.objects.using("default").aget()
    assert (row.status, row.restore_count, row.state) == ("terminated", 1, {"count": 3})


async def test_whether_a_process_lives_is_not_asked_of_the_replica(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    await server_processes.another()
    assert (await session.call("facts"))["restored"]["reason"] == "other_process"


async def test_the_model_s_own_questions_find_a_fresh_session(client: Client) -> None:
    session = await client.open()
    row = await sync_to_async(Row.objects.using("default").for_id)(session.id)
    assert await sync_to_async(row.end)("by hand")
    assert (await session.request("ping")).status == 404
