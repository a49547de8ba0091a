"""The demo's reading lists, which the model carries along, and shelves, which a session keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from demo_project.library import catalogue
from demo_project.library.models import Book
from tests.demo.conftest import SHELF
from tests.protocol import processes
from tests.protocol.client import Client, Session, text_of
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["with a session", "without"])
async def way(library: Client, request: pytest.FixtureRequest) -> Session | Stateless:
    """A client of either era."""
    return await library.open() if request.param == "with a session" else Stateless(library)


async def titled(numbers: Sequence[int]) -> list[str]:
    """Books of the catalogue as lists show them."""
    books = [await Book.objects.aget(isbn=catalogue.isbn(number)) for number in numbers]
    return [f"{book.title} ({book.isbn})" for book in books]


async def refused(way: Session | Stateless, name: str, arguments: dict[str, Any]) -> str:
    message = way.tool(name, **arguments) if isinstance(way, Session) else way.tool(name, arguments)
    result = (await way.post(message)).result
    assert result["isError"]
    return text_of(result)


class TestReadingLists:
    async def test_one_goes_from_call_to_call_and_from_process_to_process(self, way: Session | Stateless) -> None:
        reading_list = (await way.call("start_reading_list"))["result"]
        assert (await way.call("show_reading_list", reading_list=reading_list))["result"] == []
        for number in (0, 1, 0):
            await way.call("add_to_reading_list", reading_list=reading_list, isbn=catalogue.isbn(number))
            processes.forget()
        found = await way.call("show_reading_list", reading_list=reading_list)
        assert found["result"] == await titled([1, 0])

    async def test_a_book_that_left_the_catalogue_is_left_out(self, way: Session | Stateless) -> None:
        reading_list = (await way.call("start_reading_list"))["result"]
        for number in range(SHELF):
            await way.call("add_to_reading_list", reading_list=reading_list, isbn=catalogue.isbn(number))
        await Book.objects.filter(isbn=catalogue.isbn(0)).adelete()
        found = await way.call("show_reading_list", reading_list=reading_list)
        assert found["result"] == await titled(range(1, SHELF))

    async def test_what_is_none_is_refused_with_how_to_get_one(self, way: Session | Stateless) -> None:
        for text in ("summer", "reading_list-" + "x" * 22):
            assert "start_reading_list makes one" in await refused(way, "show_reading_list", {"reading_list": text})


class TestShelf:
    async def test_it_is_greeted_once_after_a_restart_and_keeps_its_books(self, library: Client) -> None:
        session = await library.open()
        for number in (0, 1):
            view = await session.call("put_on_shelf", isbn=catalogue.isbn(number))
        assert view == {"books": await titled([0, 1]), "greeting": ""}
        processes.forget()
        view = await session.call("take_off_shelf", isbn=catalogue.isbn(0))
        assert view["books"] == await titled([1])
        assert view["greeting"].startswith("Welcome back: ")
        assert view["greeting"].endswith("your shelf (2) is still here.")
        assert await session.call("my_shelf") == {"books": await titled([1]), "greeting": ""}
        assert "not on the shelf" in await refused(session, "take_off_shelf", {"isbn": catalogue.isbn(0)})

    async def test_without_a_session_the_model_is_told_to_do_something_else(self, library: Client) -> None:
        stateless = Stateless(library)
        assert "This needs a session" in await refused(stateless, "put_on_shelf", {"isbn": catalogue.isbn(0)})
