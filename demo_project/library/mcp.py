"""The library's MCP server: the project's default one, at /mcp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from asgiref.sync import sync_to_async
from django.utils import timezone
from mcp.server.mcpserver import UserMessage
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompletionArgument,
    CompletionContext,
    EmbeddedResource,
    PromptReference,
    ResourceTemplateReference,
    TextResourceContents,
)
from pydantic import BaseModel, Field

from demo_project.library import (
    cards,  # noqa: F401 - registers its tool
    catalogue,
    lists,  # noqa: F401 - registers its tools
)
from demo_project.library.arguments import CHANGES, READS, Card, Isbn, book_of, member_of
from demo_project.library.models import (
    AUTHOR_URI,
    BOOK_URI,
    CATALOGUE_URI,
    Book,
    LoanRefused,
    due_date,
)
from demo_project.library.results import (
    BookView,
    ImportView,
    Loans,
    LoanView,
    ReturnView,
    SearchResult,
)
from mcp_django import Context, mcp
from mcp_django.exceptions import ClientCannot

mcp.server_name = "library"
mcp.title = "A small public library"
mcp.instructions = (
    "Find books with search_books, then borrow and return them by ISBN. Borrowing needs a library card, named once "
    "for the session, or with each call by clients without one. A reading list (start_reading_list) needs no card; "
    "a shelf (put_on_shelf) is one that the session keeps. Subscribe to a book's resource to hear when a copy comes "
    "back."
)

# Small enough to be soon over, and few enough of them that progress is news.
IMPORT_BATCH = 250
IMPORT_STEPS = 50


@mcp.tool(title="Search the catalogue", annotations=READS)
def search_books(
    query: Annotated[
        str, Field(min_length=1, max_length=200, description="Words of title, author, subject; or an ISBN")
    ],
    available_only: bool = False,
    limit: Annotated[int, Field(ge=1, le=50)] = 10,
) -> SearchResult:
    """Find books that have every word of the query in their title, author, subject or ISBN."""
    matching = Book.objects.matching(query)
    found = matching.in_the_house() if available_only else matching.with_available()
    total = found.count()
    if total == 0:
        advice = f"Nothing matches every word. Try fewer words, or a subject: {', '.join(catalogue.SUBJECTS)}."
    elif total > limit:
        advice = f"{total - limit} more match. Add words, or raise limit (50 at most)."
    else:
        advice = ""
    return SearchResult(total=total, books=[BookView.of(book) for book in found[:limit]], advice=advice)


class Consent(BaseModel):
    """What the reader is asked before a book is borrowed."""

    borrow: bool = Field(default=True, title="Borrow it", description="Take this book out")


@mcp.tool(title="Borrow a book", annotations=CHANGES)
async def borrow(isbn: Isbn, ctx: Context, card: Card = None) -> LoanView:
    """Borrow one copy for three weeks. A card has at most five books out. The reader is asked to confirm."""
    member = await member_of(ctx, card)
    book = await book_of(isbn)
    try:
        await sync_to_async(member.check_loan)(book)
        answer = await confirmation(ctx, f"Borrow {book} with card {member.card}, until {due_date()}?")
        if answer != "yes":
            raise ToolError(f"{ANSWERS[answer]} {book.title!r} was not borrowed.")
        loan = await sync_to_async(member.borrow)(book)
    except LoanRefused as refused:
        raise ToolError(str(refused)) from None
    return LoanView.of(loan)


Answer = Literal["yes", "no", "none"]
ANSWERS: dict[Answer, str] = {
    "no": "The reader said no.",
    "none": "The reader gave no answer. Ask in the conversation, and call again if they want it.",
}


async def confirmation(ctx: Context, question: str) -> Answer:
    """What the reader says; yes if the client has no way to ask, since such readers want to borrow books as well."""
    try:
        answer = await ctx.elicit(question, Consent)
    except ClientCannot:
        return "yes"
    except (MCPError, ValueError):
        # No answer in time, an error for an answer, or one that does not fit the form.
        return "none"
    if answer.action == "cancel":
        return "none"
    return "yes" if answer.action == "accept" and answer.data.borrow else "no"


@mcp.tool(title="Return a book", annotations=CHANGES)
async def return_book(isbn: Isbn, ctx: Context, card: Card = None) -> ReturnView:
    """Return a borrowed copy."""
    member = await member_of(ctx, card)
    book = await book_of(isbn)
    loan = await member.loans.open().filter(book=book).afirst()
    if loan is None or not await sync_to_async(loan.give_back)():
        raise ToolError(f"{member.card} does not have {book.title!r}. my_loans lists what can be returned.")
    late = timezone.localdate() - loan.due
    return ReturnView(isbn=book.isbn, title=book.title, days_late=max(late.days, 0))


@mcp.tool(title="My loans", annotations=READS)
async def my_loans(ctx: Context, card: Card = None) -> Loans:
    """The books that a card has out, the one due next first."""
    member = await member_of(ctx, card)
    loans = member.loans.open().select_related("book", "member").order_by("due")
    return Loans(card=member.card, loans=[LoanView.of(loan) async for loan in loans])


@mcp.tool(title="Import the union catalogue", annotations=CHANGES)
async def import_catalogue(ctx: Context, rows: Annotated[int, Field(ge=1, le=50_000)] = 5_000) -> ImportView:
    """Import that many books of the union catalogue. Takes a while; safe to cancel and to repeat."""
    before = await Book.objects.acount()
    imported = 0
    try:
        for batch in batches(rows):
            imported += await sync_to_async(add_books)(batch)
            await ctx.report_progress(batch.stop, rows, f"{batch.stop} of {rows} books, {imported} of them new")
    finally:
        # Also if it is cancelled. The thread of the batches does it, and so after the last of them is committed.
        await sync_to_async(tell_of_new_books)(before)
    return ImportView(imported=imported, already_there=rows - imported, total=await Book.objects.acount())


def batches(rows: int) -> Iterator[range]:
    """The rows in pieces, each of which is one transaction and one step of progress."""
    size = max(IMPORT_BATCH, -(-rows // IMPORT_STEPS))
    return (range(start, min(start + size, rows)) for start in range(0, rows, size))


def add_books(numbers: range) -> int:
    """Save the books that are missing, all of them or none, and say how many they were."""
    return Book.objects.add_missing(catalogue.books(numbers))


def tell_of_new_books(before: int) -> None:
    """Once for all, since bulk_create() sends no signals; and clients need not hear of each batch."""
    if Book.objects.count() != before:
        mcp.notify_resources_changed()
        mcp.notify_resource_updated(CATALOGUE_URI)


@mcp.resource(CATALOGUE_URI, title="The catalogue", mime_type="application/json")
def catalogue_summary() -> dict[str, object]:
    """How many books there are on which subject, and how to read on."""
    subjects = Book.objects.by_subject()
    return {
        "books": sum(subjects.values()),
        "subjects": subjects,
        "book": BOOK_URI,
        "author": AUTHOR_URI,
    }


@mcp.resource(BOOK_URI, title="A book", mime_type="application/json")
async def book_resource(isbn: str) -> BookView:
    """One book, and how many copies can be borrowed now."""
    try:
        return BookView.of(await book_of(isbn))
    except ToolError as error:
        raise ResourceNotFoundError(str(error)) from None


@mcp.resource(AUTHOR_URI, title="An author's books", mime_type="application/json")
def author_resource(author: str) -> list[BookView]:
    """All books of one author, by the name as the catalogue writes it."""
    books = [BookView.of(book) for book in Book.objects.filter(author=author).with_available()]
    if not books:
        raise ResourceNotFoundError(f"No author {author!r} here. Names look like 'A. Alder'; completion knows them.")
    return books


@mcp.prompt(title="Report on a book")
async def book_report(isbn: str) -> list[UserMessage]:
    """Ask for a short report on one book of the catalogue."""
    try:
        view = BookView.of(await book_of(isbn))
    except ToolError as error:
        raise MCPError(code=INVALID_PARAMS, message=str(error)) from None
    return [
        UserMessage(
            EmbeddedResource(
                type="resource",
                resource=TextResourceContents(uri=view.uri, mime_type="application/json", text=view.model_dump_json()),
            )
        ),
        UserMessage(f"Write a short report on {view.title!r}: whom it may interest, and what to read beside it."),
    ]


@mcp.prompt(title="Recommend something like it")
def recommend(author: str, title: str) -> str:
    """Ask for books like one that the reader liked."""
    return (
        f"I liked {title!r} by {author}. Look with search_books for three books to borrow now, on the "
        "same subject or in a like mood. Say why in one sentence each, and offer to put them on my shelf."
    )


@mcp.completion()
def complete(
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> list[str] | None:
    """Values for the arguments of the prompts and templates above."""
    given = (context and context.arguments) or {}
    books = Book.objects.filter(author=given["author"]) if "author" in given else Book.objects.all()
    match argument.name:
        case "author":
            authors = Book.objects.filter(author__icontains=argument.value).order_by("author")
            return list(authors.values_list("author", flat=True).distinct()[:100])
        case "title":
            titles = books.filter(title__icontains=argument.value).order_by("title")
            return list(titles.values_list("title", flat=True).distinct()[:100])
        case "isbn":
            return list(books.matching(argument.value).order_by("isbn").values_list("isbn", flat=True)[:100])
    return None
