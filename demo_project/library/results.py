"""What the library's tools answer; the descriptions reach the model in each tool's output schema."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel, Field

from demo_project.library.models import Book, Loan


class BookView(BaseModel):
    isbn: str
    title: str
    author: str
    subject: str
    year: int
    copies: int
    available: int = Field(description="Copies that can be borrowed now")
    uri: str = Field(description="The book's resource")

    @classmethod
    def of(cls, book: Book) -> BookView:
        """The view of a book that came from ``with_available()``."""
        return cls(
            isbn=book.isbn,
            title=book.title,
            author=book.author,
            subject=book.subject,
            year=book.year,
            copies=book.copies,
            available=book.available,
            uri=book.uri,
        )


class SearchResult(BaseModel):
    total: int = Field(description="Matches in the whole catalogue; books has the first of them")
    books: list[BookView]
    advice: str = Field(default="", description="What to try when this is not what was hoped for")


class LoanView(BaseModel):
    isbn: str
    title: str
    card: str
    due: date
    overdue: bool

    @classmethod
    def of(cls, loan: Loan) -> LoanView:
        """The view of a loan whose book and member are loaded."""
        return cls(
            isbn=loan.book.isbn,
            title=loan.book.title,
            card=loan.member.card,
            due=loan.due,
            overdue=loan.is_overdue(),
        )


class Loans(BaseModel):
    card: str
    loans: list[LoanView]


class ReturnView(BaseModel):
    isbn: str
    title: str
    days_late: int = Field(description="0 when it came back in time")


class ImportView(BaseModel):
    imported: int = Field(description="Books that are new in the catalogue")
    already_there: int
    total: int = Field(description="Books in the catalogue now")


class ShelfView(BaseModel):
    books: list[str] = Field(description="What is on the shelf: titles with their ISBN, oldest first")
    greeting: str = Field(default="", description="Said once after the session was restored")
