"""The demo's library: its rules hold when many borrow at once, and clients hear of what changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.db.models import QuerySet
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from demo_project.library import catalogue
from demo_project.library.fill import fill
from demo_project.library.mcp import batches
from demo_project.library.models import LOANS_PER_MEMBER, Book, BookQuerySet, Loan, LoanRefused, Member
from tests.demo.conftest import SHELF
from tests.protocol.client import Client, EventStream, Session, progress_of, text_of, with_progress


def add_book(number: int = 0, copies: int = 1) -> Book:
    book = catalogue.book(number)
    book.copies = copies
    book.save()
    return book


def add_member(number: int = 1) -> Member:
    return Member.objects.create(card=f"CARD-{number}", name=f"Reader {number}")


def at_once(calls: Sequence[Callable[[], object]]) -> list[str]:
    """Run every call in a thread of its own, all let go together. Each comes out as "done" or a refusal."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> str:
        try:
            start.wait(timeout=30)
            call()
        except LoanRefused as refused:
            return str(refused)
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


class ManyAtOnce(TransactionTestCase):
    def test_the_last_copy_goes_to_exactly_one_of_many_readers(self) -> None:
        readers = [add_member(number) for number in range(8)]
        for number in range(10):
            book = add_book(number)
            outcomes = at_once([partial(reader.borrow, book) for reader in readers])
            assert outcomes.count("done") == 1, outcomes
            assert book.loans.open().count() == 1
            Loan.objects.all().delete()

    def test_one_card_borrowing_from_everywhere_stays_within_its_limit(self) -> None:
        reader = add_member()
        books = [add_book(number) for number in range(LOANS_PER_MEMBER + 3)]
        outcomes = at_once([partial(reader.borrow, book) for book in books])
        assert outcomes.count("done") == LOANS_PER_MEMBER, outcomes
        assert reader.loans.open().count() == LOANS_PER_MEMBER

    def test_one_card_cannot_borrow_the_same_book_twice_however_fast(self) -> None:
        reader, book = add_member(), add_book(copies=5)
        outcomes = at_once([partial(reader.borrow, book)] * 4)
        assert outcomes.count("done") == 1, outcomes

    def test_two_imports_of_the_same_rows_leave_each_book_there_once(self) -> None:
        imports = [lambda: Book.objects.add_missing(catalogue.books(range(200)))] * 2
        assert at_once(imports) == ["done", "done"]
        assert Book.objects.count() == 200


class Loans(TestCase):
    def test_a_copy_that_came_back_can_be_borrowed_again(self) -> None:
        book = add_book()
        add_member(1).borrow(book).give_back()
        assert add_member(2).borrow(book).book == book

    def test_a_loan_is_given_back_once(self) -> None:
        loan = add_member().borrow(add_book())
        assert loan.give_back()
        assert not loan.give_back()

    def test_when_all_copies_are_out_the_refusal_says_when_one_is_due(self) -> None:
        book = add_book()
        loan = add_member(1).borrow(book)
        with self.assertRaisesMessage(LoanRefused, f"due back on {loan.due}"):
            add_member(2).borrow(book)

    def test_a_book_without_any_copy_is_refused_without_a_date(self) -> None:
        with self.assertRaisesMessage(LoanRefused, "has none to lend"):
            add_member().borrow(add_book(copies=0))

    def test_a_loan_is_overdue_from_the_day_after_it_was_due_until_it_is_back(self) -> None:
        loan = add_member().borrow(add_book())
        assert not loan.is_overdue(loan.due)
        assert loan.is_overdue(loan.due + timedelta(days=1))
        loan.returned_at = timezone.now()
        assert not loan.is_overdue(loan.due + timedelta(days=1))

    def test_available_counts_open_loans_only(self) -> None:
        book = add_book(copies=3)
        add_member(1).borrow(book)
        add_member(2).borrow(book).give_back()
        assert Book.objects.with_available().get().available == 2


class Catalogue(TestCase):
    def test_a_search_wants_every_word_wherever_it_stands(self) -> None:
        book = add_book(number=1)
        add_book(number=2)
        words = f"{book.author.split()[1].lower()} {book.subject} {book.title.split()[0]}"
        assert list(Book.objects.matching(words)) == [book]
        assert not Book.objects.matching(f"{words} nowhere").exists()

    def test_an_isbn_is_found_with_hyphens_and_without(self) -> None:
        book = add_book(number=1)
        add_book(number=2)
        hyphenated = f"{book.isbn[:3]}-{book.isbn[3:12]}-{book.isbn[12]}"
        assert list(Book.objects.matching(hyphenated)) == [book]

    def test_the_same_number_is_always_the_same_book_with_a_right_isbn(self) -> None:
        for book in catalogue.books(range(1000)):
            digits = [int(digit) for digit in book.isbn]
            assert (sum(digits[::2]) + 3 * sum(digits[1::2])) % 10 == 0, book.isbn
            assert len(book.title) <= 200
        assert len({book.isbn for book in catalogue.books(range(1000))}) == 1000
        assert str(catalogue.book(7)) == str(catalogue.book(7))

    def test_filling_again_changes_nothing(self) -> None:
        fill()
        Book.objects.filter(isbn=catalogue.isbn(0)).update(title="Renamed")
        before = (Book.objects.count(), Member.objects.count(), Loan.objects.count())
        fill()
        assert (Book.objects.count(), Member.objects.count(), Loan.objects.count()) == before
        assert Book.objects.get(isbn=catalogue.isbn(0)).title == "Renamed"
        assert all(before)


# Over the protocol


FORMS: dict[str, Any] = {"elicitation": {}}
YES = {"action": "accept", "content": {"borrow": True}}
NOT_YES = [
    ({"action": "accept", "content": {"borrow": False}}, "The reader said no."),
    ({"action": "decline"}, "The reader said no."),
    ({"action": "cancel"}, "The reader gave no answer."),
    ({"action": "accept", "content": {"borrow": "a parrot"}}, "The reader gave no answer."),
    ({"action": "accept"}, "The reader gave no answer."),
]


@asynccontextmanager
async def listening(session: Session) -> AsyncIterator[EventStream]:
    """The session's stream of notices, for the time of a block; what happens in it is told."""
    async with session.listening() as stream:
        assert await stream.frame() is not None
        yield stream


def out() -> int:
    return Loan.objects.open().count()


async def borrowing(session: Session, number: int = 0, card: str = "LIB-0001") -> EventStream:
    """A loan that is under way: the reader is being asked."""
    return await session.stream("borrow", isbn=catalogue.isbn(number), card=card)


@pytest.mark.anyio
class TestBorrowing:
    async def test_the_reader_is_asked_and_has_the_book_once_they_agree(self, library: Client) -> None:
        session = await library.open(capabilities=FORMS)
        stream = await borrowing(session)
        question = await stream.question()
        book = await Book.objects.aget(isbn=catalogue.isbn(0))
        assert f"Borrow {book} with card LIB-0001, until" in question["params"]["message"]
        assert question["params"]["requestedSchema"]["properties"]["borrow"]["type"] == "boolean"
        assert await sync_to_async(out)() == 0
        await session.answer(question, YES)
        result = (await stream.message())["result"]
        assert result["structuredContent"]["title"] == book.title
        assert await sync_to_async(out)() == 1

    @pytest.mark.parametrize(("answer", "text"), NOT_YES)
    async def test_a_reader_who_does_not_agree_does_not_get_it(
        self, library: Client, answer: dict[str, Any], text: str
    ) -> None:
        session = await library.open(capabilities=FORMS)
        stream = await borrowing(session)
        await session.answer(await stream.question(), answer)
        result = (await stream.message())["result"]
        assert result["isError"]
        assert text in text_of(result)
        assert "was not borrowed" in text_of(result)
        assert await sync_to_async(out)() == 0

    async def test_an_error_for_an_answer_is_no_consent(self, library: Client) -> None:
        session = await library.open(capabilities=FORMS)
        stream = await borrowing(session)
        await session.refuse(await stream.question(), -32603, "The window was closed.")
        assert "The reader gave no answer." in text_of((await stream.message())["result"])
        assert await sync_to_async(out)() == 0

    @pytest.mark.parametrize(
        ("version", "capabilities"),
        [("2025-11-25", {}), ("2025-11-25", {"elicitation": {"url": {}}}), ("2025-03-26", FORMS)],
        ids=["cannot ask", "shows no forms", "is too old to ask"],
    )
    async def test_the_reader_of_a_client_that_cannot_ask_borrows_all_the_same(
        self, library: Client, version: str, capabilities: dict[str, Any]
    ) -> None:
        session = await library.open(version, capabilities=capabilities)
        loan = await session.call("borrow", isbn=catalogue.isbn(0), card="LIB-0001")
        assert loan["card"] == "LIB-0001"
        assert await sync_to_async(out)() == 1

    async def test_nobody_is_asked_about_a_loan_that_the_rules_forbid(self, library: Client) -> None:
        other, book = await Member.objects.aget(card="LIB-0002"), await Book.objects.aget(isbn=catalogue.isbn(0))
        await sync_to_async(other.borrow)(book)
        session = await library.open(capabilities=FORMS)
        result = await session.call_tool("borrow", isbn=catalogue.isbn(0), card="LIB-0001")
        assert "There is no copy" in text_of(result)

    async def test_a_copy_that_is_gone_when_the_reader_agrees_is_refused(self, library: Client) -> None:
        session = await library.open(capabilities=FORMS)
        streams = [await borrowing(session, card=card) for card in ("LIB-0001", "LIB-0002")]
        questions = [await stream.question() for stream in streams]
        results = []
        for stream, question in zip(streams, questions, strict=True):
            await session.answer(question, YES)
            results.append((await stream.message())["result"])
        assert [result.get("isError", False) for result in results] == [False, True]
        assert "There is no copy" in text_of(results[1])
        assert await sync_to_async(out)() == 1


class TestBatches:
    @pytest.mark.parametrize("rows", [1, 249, 250, 251, 5_000, 12_499, 12_501, 50_000])
    def test_they_cover_every_row_once_in_at_most_fifty_steps(self, rows: int) -> None:
        found = list(batches(rows))
        assert [number for batch in found for number in batch] == list(range(rows))
        assert len(found) <= 50
        assert all(len(batch) >= 250 for batch in found[:-1])


@pytest.fixture
def third_batch(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Holds an import in its third batch: an event that it got there, and one that lets it go on."""
    there, go_on = threading.Event(), threading.Event()

    def held(books: QuerySet[Book], objs: Any, **options: Any) -> Any:
        objs = list(objs)
        made = original(books, objs[:100], **options)
        if objs[0].isbn == catalogue.isbn(500):
            there.set()
            assert go_on.wait(15)
        return made + original(books, objs[100:], **options)

    original = QuerySet.bulk_create
    monkeypatch.setattr(BookQuerySet, "bulk_create", held)
    yield there, go_on
    go_on.set()


@pytest.mark.anyio
class TestImport:
    async def test_thousands_of_rows_report_their_progress_step_by_step(self, library: Client) -> None:
        session = await library.open()
        messages = await (await session.stream("import_catalogue", rows=3_000)).rest()
        assert progress_of(messages) == list(range(250, 3_001, 250))
        assert {message["params"]["total"] for message in messages[:-1]} == {3_000}
        assert messages[-2]["params"]["message"] == f"3000 of 3000 books, {3_000 - SHELF} of them new"
        result = messages[-1]["result"]["structuredContent"]
        assert result == {"imported": 3_000 - SHELF, "already_there": SHELF, "total": 3_000}
        assert await Book.objects.acount() == 3_000

    async def test_an_import_without_anybody_who_wants_to_hear_of_its_progress_is_one_answer(
        self, library: Client
    ) -> None:
        session = await library.open()
        first = await session.call("import_catalogue", rows=300)
        again = await session.call("import_catalogue", rows=300)
        assert (first["imported"], again["imported"], again["already_there"]) == (300 - SHELF, 0, 300)

    async def test_one_that_is_cancelled_leaves_no_half_batch_and_tells_of_the_whole_ones(
        self, library: Client, third_batch: tuple[threading.Event, threading.Event]
    ) -> None:
        there, go_on = third_batch
        session = await library.open()
        async with listening(session) as listener:
            message = with_progress(session.tool("import_catalogue", rows=2_000))
            stream = await session.begin(message).stream()
            await asyncio.to_thread(there.wait, 15)
            assert (await session.cancel(message["id"])).status == 202
            go_on.set()
            messages = await stream.rest()
            assert progress_of(messages) == [250, 500]
            assert messages[-1]["error"]["code"] == -32800
            assert (await listener.message())["method"] == "notifications/resources/list_changed"
            assert await Book.objects.acount() == 750

    async def test_the_list_of_resources_changes_once_for_all_new_rows(self, library: Client) -> None:
        session = await library.open()
        async with listening(session) as stream:
            await session.call("import_catalogue", rows=1_000)
            await session.call("import_catalogue", rows=1_000)
            await library.open()
            assert (await stream.message())["method"] == "notifications/resources/list_changed"
            assert stream.arrived() == []


async def updates(stream: EventStream, count: int) -> list[str]:
    """The next so many resources that were updated, or "the list"."""
    return [message.get("params", {}).get("uri", "the list") for message in await stream.messages(count)]


@pytest.mark.anyio
class TestResources:
    async def test_who_subscribed_to_a_book_hears_when_anybody_borrows_or_returns_it(self, library: Client) -> None:
        listener, reader = await library.open(), await library.open()
        book, other = [await Book.objects.aget(isbn=catalogue.isbn(number)) for number in (0, 1)]
        for uri in (book.uri, book.author_uri):
            assert (await listener.request("resources/subscribe", {"uri": uri})).result == {}
        async with listening(listener) as stream:
            for tool in ("borrow", "return_book"):
                await reader.call(tool, isbn=other.isbn, card="LIB-0001")
                await reader.call(tool, isbn=book.isbn, card="LIB-0001")
                assert sorted(await updates(stream, 2)) == sorted([book.uri, book.author_uri])
            assert stream.arrived() == []

    async def test_who_subscribed_to_a_book_hears_when_staff_change_it(self, library: Client) -> None:
        session = await library.open()
        book = await Book.objects.aget(isbn=catalogue.isbn(0))
        for uri in (book.uri, "lib://catalogue"):
            assert (await session.request("resources/subscribe", {"uri": uri})).result == {}
        async with listening(session) as stream:
            book.title = "Another Title"
            await book.asave()
            assert sorted(await updates(stream, 2)) == sorted([book.uri, "lib://catalogue"])
            await book.adelete()
            assert sorted(await updates(stream, 3)) == sorted([book.uri, "lib://catalogue", "the list"])

    async def test_a_new_book_changes_the_list(self, library: Client) -> None:
        session = await library.open()
        async with listening(session) as stream:
            await sync_to_async(add_book)(SHELF)
            assert await updates(stream, 1) == ["the list"]
