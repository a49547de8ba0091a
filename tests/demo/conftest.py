"""The demo's own endpoints, in this process, with committed rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from demo_project.everything.models import Visibility
from demo_project.library import catalogue
from demo_project.library.models import Book, Member
from mcp_django.models import Event, Process, Session, StoredHandle, Topic
from tests.protocol import processes
from tests.protocol.client import Client
from tests.protocol.conftest import connections_are_closed
from tests.protocol.entries import application_of

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker, Settings

__all__ = ["connections_are_closed"]

SHELF = 5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """As pytest-django's fixture of this name, which empties every table of the project each time."""
    with django_db_blocker.unblock():
        yield
        for model in (Session, StoredHandle, Event, Process, Topic, Member, Visibility):
            model._default_manager.all().delete()
        # Without signals: thousands of books would each tell of their end.
        books = Book.objects.all()
        books._raw_delete(books.db)


@pytest.fixture
def project(transactional_db: None, settings: Settings) -> Iterator[None]:
    """A server process that begins anew, looks often, and streams nothing for slowness alone."""
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    settings.MCP_DJANGO_STREAM_AFTER = 60.0
    processes.forget()
    yield
    processes.forget()
    processes.write_all()


@pytest.fixture
def library(project: None) -> Client:
    """A client of the library, in which there are some books and two readers."""
    Book.objects.add_missing(catalogue.books(range(SHELF)))
    Book.objects.update(copies=1)
    Member.objects.bulk_create([Member(card=f"LIB-{number:04d}", name="A reader") for number in (1, 2)])
    return Client(application_of("native"), "/mcp")


@pytest.fixture
def everything(project: None) -> Client:
    """A client of the server with everything."""
    return Client(application_of("native"), "/everything/mcp")
