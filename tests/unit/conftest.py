"""Fixtures of the unit tests: pure parts, stores and lanes, without servers and without HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import hypothesis
import pytest
from django.core.management.sql import emit_post_migrate_signal
from django.db import DEFAULT_DB_ALIAS, connection
from django.test import override_settings

from mcp_django import server as servers_module
from mcp_django.memory import MemoryStore
from mcp_django.processes import Heartbeat
from mcp_django.store import ORMStore, session_store
from tests.unit.waiting import end_lane

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker

# A deadline for one example would measure how busy the machine is.
hypothesis.settings.register_profile(
    "unit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("unit")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="package")
def permissions_are_back(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Tests with few apps empty the tables of content types and permissions, and make none anew."""
    yield
    with django_db_blocker.unblock():
        # A run of tests none of which needs the database has one without tables.
        if connection.introspection.table_names():
            emit_post_migrate_signal(verbosity=0, interactive=False, db=DEFAULT_DB_ALIAS)


@pytest.fixture
def orm_store(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ORMStore]:
    """The process's own ORM store with its real lanes, but without the lease: that would write between two tests.

    The lanes' threads end with the test, and with them their connections: the test database is to be dropped.
    """
    monkeypatch.setattr(Heartbeat, "start", lambda self: None)
    store = session_store()
    assert isinstance(store, ORMStore)
    # On a busy machine any visit may take as long as a database that is away.
    with override_settings(MCP_DJANGO_STORE_TIMEOUT=60.0):
        yield store
    end_lane(store.reads)
    end_lane(store.writes)


@pytest.fixture
def second_orm_store(orm_store: ORMStore) -> Iterator[ORMStore]:
    """Another store on the same rows with lanes, and so connections, of its own: as another process has."""
    store = ORMStore()
    yield store
    end_lane(store.reads)
    end_lane(store.writes)


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without servers; those that the test makes are unknown again after it."""
    # Else the demo's would be made, and forgotten, within this test.
    servers_module.autodiscover()
    monkeypatch.setattr(servers_module, "_servers", WeakValueDictionary())


@pytest.fixture
def in_memory() -> Iterator[None]:
    """Sessions in memory, for what does not depend on where they are kept."""
    with override_settings(MCP_DJANGO_SESSION_STORE="mcp_django.memory.MemoryStore"):
        yield
