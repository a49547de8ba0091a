"""The demo's library: its rules hold when many borrow at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from demo_project.library import catalogue
from demo_project.library.fill import fill
from demo_project.library.models import LOANS_PER_MEMBER, Book, Loan, LoanRefused, Member


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
