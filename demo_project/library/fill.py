"""The rows that the demo starts with. Filling again changes nothing that is there."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from demo_project.library import catalogue
from demo_project.library.models import LOAN_PERIOD, Book, Loan, Member

BOOKS = 300
MEMBERS = 40
LOANS = 60


def fill() -> None:
    Book.objects.add_missing(catalogue.books(range(BOOKS)))
    Member.objects.bulk_create(
        [Member(card=card(number), name=f"Reader {number}") for number in range(1, MEMBERS + 1)],
        ignore_conflicts=True,
    )
    if not Loan.objects.exists():
        Loan.objects.bulk_create(loans())


def card(number: int) -> str:
    return f"LIB-{number:04d}"


def loans() -> list[Loan]:
    """A history in which most books have come back, some are out and a few are late."""
    members = list(Member.objects.order_by("card")[:MEMBERS])
    books = list(Book.objects.order_by("isbn")[:BOOKS])
    now = timezone.now()
    return [
        Loan(
            member=members[number % len(members)],
            book=books[number * 4],
            borrowed_at=now - timedelta(days=number),
            due=(now - timedelta(days=number) + LOAN_PERIOD).date(),
            returned_at=now - timedelta(days=number // 2) if number % 4 else None,
        )
        for number in range(min(LOANS, len(books) // 4))
    ]
