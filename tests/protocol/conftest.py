"""Both entries, the servers' URLconf, and a database that every thread sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session as BrowserSession
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.signals import connection_created

from mcp_django import streams
from mcp_django.asgi import Application
from mcp_django.models import Event, Process, Session, StoredHandle, Topic
from mcp_django.wakeups import Wakeups
from tests.protocol import auth_servers, processes
from tests.protocol.auth_servers import Grant
from tests.protocol.client import Client
from tests.protocol.entries import ENTRIES, Entry, application_of
from tests.protocol.layers import Broker
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage
from tests.protocol.stage import stage as the_stage

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker, Settings


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run under asyncio, each in an event loop of its own."""
    return "asyncio"


@pytest.fixture(scope="package", autouse=True)
def connections_are_closed(django_db_setup: None) -> Iterator[None]:
    """Lanes keep their connections for some idle seconds, and a test database that is in use cannot be dropped."""
    made: list[Any] = []

    def note(connection: Any, **kwargs: Any) -> None:
        made.append(connection)

    connection_created.connect(note)
    yield
    connection_created.disconnect(note)
    processes.forget()
    for connection in made:
        connection.inc_thread_sharing()
        connection.close()


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Rows are committed, since other threads are to see them, and deleted in the end.

    As pytest-django's fixture of this name, in whose place it stands; but that one empties every table of the
    project and makes permissions anew, which takes longer than most tests here.
    """
    with django_db_blocker.unblock():
        yield
        for model in (Session, StoredHandle, Event, Process, Topic, User, BrowserSession):
            model._default_manager.using(DEFAULT_DB_ALIAS).all().delete()


@pytest.fixture(autouse=True)
def project(transactional_db: None, settings: Settings) -> Iterator[None]:
    settings.ROOT_URLCONF = "tests.protocol.urls"
    # On a busy machine any call would take long enough to become a stream.
    settings.MCP_DJANGO_STREAM_AFTER = 60.0
    # And any visit to the database, for a 503.
    settings.MCP_DJANGO_STORE_TIMEOUT = 60.0
    the_stage.reset()
    processes.forget()
    watching = watchers()
    yield
    processes.forget()
    processes.write_all()
    # One that goes on would look into the next test's database.
    assert watchers() <= watching


def watchers() -> set[threading.Thread]:
    """The threads that look after streams; another package's tests may have left some."""
    names = ("mcp-django-watcher", "mcp-django-patrol")
    return {thread for thread in threading.enumerate() if thread.name in names}


@pytest.fixture
def stage() -> Stage:
    return the_stage


@pytest.fixture
def granted() -> Iterator[dict[str, Grant]]:
    """The tokens that the servers with closed doors know."""
    auth_servers.granted.clear()
    yield auth_servers.granted
    auth_servers.granted.clear()


@pytest.fixture
def server_processes() -> Processes:
    return Processes()


@pytest.fixture
def sky(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker between the processes, in the weather that the test asks for."""
    broker = Broker(request.param)
    monkeypatch.setattr(streams, "Wakeups", partial(Wakeups, layer=broker.layer))
    return broker


@pytest.fixture(params=ENTRIES)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Through which door requests come: each test that asks for an application runs once for either."""
    value: Entry = request.param
    return value


@pytest.fixture
def application(entry: Entry) -> Application:
    return application_of(entry)


@pytest.fixture
def client(application: Application) -> Client:
    """An anonymous client of the main server."""
    return Client(application)


@pytest.fixture
def alice(application: Application) -> Client:
    return Client(application, token="token-of-alice")


@pytest.fixture
def bob(application: Application) -> Client:
    return Client(application, token="token-of-bob")
