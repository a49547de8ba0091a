"""A public library: books, the people with a card, and who has what."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from urllib.parse import quote

from django.conf import settings
from django.db import models, transaction
from django.db.models import Count, F, Q
from django.utils import timezone

from mcp_django import mcp, resource_updates

LOAN_PERIOD = timedelta(days=21)
LOANS_PER_MEMBER = 5

CATALOGUE_URI = "lib://catalogue"
BOOK_URI = "lib://books/{isbn}"
AUTHOR_URI = "lib://authors/{author}"


class LoanRefused(Exception):
    """The rules of the house forbid this loan. The message says what to do instead."""


class BookQuerySet(models.QuerySet["Book"]):
    def matching(self, words: str) -> BookQuerySet:
        """Books that have every word in their title, author, subject or ISBN."""
        books = self
        for word in words.split():
            books = books.filter(
                Q(title__icontains=word)
                | Q(author__icontains=word)
                | Q(subject__icontains=word)
                | Q(isbn__startswith=word.replace("-", ""))
            )
        return books

    def with_available(self) -> BookQuerySet:
        """Add ``available``: the copies in the house, counted from the loans so that it cannot drift."""
        out = Count("loans", filter=Q(loans__returned_at=None))
        # The attribute is declared below, since a declared return type forgets the annotation.
        return self.annotate(available=F("copies") - out)  # type: ignore[no-redef]

    def in_the_house(self) -> BookQuerySet:
        """Books with a copy that can be borrowed now, with ``available``."""
        return self.with_available().filter(available__gt=0)  # type: ignore[misc]

    def by_subject(self) -> dict[str, int]:
        """How many books there are on which subject."""
        return dict(self.order_by("subject").values_list("subject").annotate(Count("pk")))

    @transaction.atomic
    def add_missing(self, books: Iterable[Book]) -> int:
        """Save those whose ISBN is new, and say how many they were."""
        by_isbn = {book.isbn: book for book in books}
        for known in self.filter(isbn__in=by_isbn).values_list("isbn", flat=True):
            del by_isbn[known]
        # Two imports may run at once: what the other one saved meanwhile is no error.
        self.bulk_create(by_isbn.values(), ignore_conflicts=True)
        return len(by_isbn)


@resource_updates(CATALOGUE_URI)
@resource_updates(AUTHOR_URI)
@resource_updates(BOOK_URI, list_changed=True)
class Book(models.Model):
    isbn = models.CharField("ISBN", max_length=13, unique=True)
    title = models.CharField(max_length=200, db_index=True)
    author = models.CharField(max_length=100, db_index=True)
    subject = models.CharField(max_length=50, db_index=True)
    year = models.PositiveSmallIntegerField()
    copies = models.PositiveSmallIntegerField(default=1)

    available: int
    """Copies in the house; there on books that came from ``with_available()``."""

    objects = BookQuerySet.as_manager()

    class Meta:
        ordering = ["title", "isbn"]

    def __str__(self) -> str:
        return f"{self.title} ({self.author}, {self.year})"

    @property
    def uri(self) -> str:
        """The book's resource."""
        return BOOK_URI.format(isbn=self.isbn)

    @property
    def author_uri(self) -> str:
        """The resource of all books of its author."""
        return AUTHOR_URI.format(author=quote(self.author, safe=""))


class Member(models.Model):
    card = models.CharField("library card", max_length=20, unique=True)
    name = models.CharField(max_length=100)
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="member"
    )

    class Meta:
        ordering = ["card"]

    def __str__(self) -> str:
        return f"{self.name} ({self.card})"

    @transaction.atomic
    def borrow(self, book: Book) -> Loan:
        """Lend a copy to this member.

        Raises:
            LoanRefused: by the rules of the house.
        """
        # Everybody locks in this order. Whoever waits here counts what the other one has committed.
        Member.objects.select_for_update().get(pk=self.pk)
        Book.objects.select_for_update().get(pk=book.pk)
        self.check_loan(book)
        return self.loans.create(book=book, due=due_date())

    def check_loan(self, book: Book) -> None:
        """See whether a copy could be lent to this member now.

        Raises:
            LoanRefused: by the rules of the house.
        """
        mine = self.loans.open()
        if mine.filter(book=book).exists():
            raise LoanRefused(
                f"{self.card} has {book.title!r} already; it can be kept or returned, not borrowed twice."
            )
        if mine.count() >= LOANS_PER_MEMBER:
            raise LoanRefused(f"{self.card} has {LOANS_PER_MEMBER} books out, the limit. Return one first.")
        out = book.loans.open().order_by("due")
        if out.count() >= book.copies:
            next_due = out.values_list("due", flat=True).first()
            when = f"the next is due back on {next_due}" if next_due else "the library has none to lend"
            raise LoanRefused(f"There is no copy of {book.title!r} now: {when}.")


def due_date() -> date:
    """When a book that is borrowed today has to be back."""
    return timezone.localdate() + LOAN_PERIOD


class LoanQuerySet(models.QuerySet["Loan"]):
    def open(self) -> LoanQuerySet:
        return self.filter(returned_at=None)


# These resources tell how many copies are in the house.
@resource_updates(AUTHOR_URI)
@resource_updates(BOOK_URI)
class Loan(models.Model):
    book = models.ForeignKey(Book, on_delete=models.CASCADE, related_name="loans")
    member = models.ForeignKey(Member, on_delete=models.CASCADE, related_name="loans")
    borrowed_at = models.DateTimeField("borrowed", default=timezone.now)
    due = models.DateField()
    returned_at = models.DateTimeField("returned", null=True, blank=True)

    objects = LoanQuerySet.as_manager()

    class Meta:
        ordering = ["-borrowed_at"]
        permissions = [("view_report", "Can view the report on loans")]

    def __str__(self) -> str:
        return f"{self.book.title}, {self.member.card}"

    @property
    def isbn(self) -> str:
        return self.book.isbn

    @property
    def author(self) -> str:
        return self.book.author

    def is_overdue(self, today: date | None = None) -> bool:
        return self.returned_at is None and self.due < (today or timezone.localdate())

    def give_back(self) -> bool:
        """Take the copy back. False if somebody has done so before."""
        rows = Loan.objects.open().filter(pk=self.pk)
        returned = rows.update(returned_at=timezone.now()) == 1
        if returned:
            # An UPDATE sends no signal, so this has to be said.
            mcp.notify_resource_updated(self.book.uri)
            mcp.notify_resource_updated(self.book.author_uri)
        return returned
