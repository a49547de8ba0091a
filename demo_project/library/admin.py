"""The library in Django admin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from demo_project.library.models import Book, Loan, Member

if TYPE_CHECKING:
    BookAdminBase = admin.ModelAdmin[Book]
    MemberAdminBase = admin.ModelAdmin[Member]
    LoanAdminBase = admin.ModelAdmin[Loan]
else:
    BookAdminBase = MemberAdminBase = LoanAdminBase = admin.ModelAdmin


@admin.register(Book)
class BookAdmin(BookAdminBase):
    list_display = ["title", "author", "subject", "year", "isbn", "copies", "available"]
    list_filter = ["subject"]
    search_fields = ["title", "author", "isbn"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Book]:
        return Book.objects.with_available()

    @admin.display(ordering="available")
    def available(self, book: Book) -> int:
        return book.available


@admin.register(Member)
class MemberAdmin(MemberAdminBase):
    list_display = ["card", "name", "user"]
    list_select_related = ["user"]
    search_fields = ["card", "name"]
    autocomplete_fields = ["user"]


@admin.register(Loan)
class LoanAdmin(LoanAdminBase):
    list_display = ["book", "member", "borrowed_at", "due", "returned_at", "is_overdue"]
    list_filter = [("returned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["book", "member"]
    search_fields = ["book__title", "book__isbn", "member__card"]
    autocomplete_fields = ["book", "member"]
    date_hierarchy = "borrowed_at"

    @admin.display(boolean=True, description="overdue")
    def is_overdue(self, loan: Loan) -> bool:
        return loan.is_overdue()
