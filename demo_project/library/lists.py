"""Books that a reader keeps together, in two ways: on a list that the model carries, and on the session's shelf."""

from __future__ import annotations

from mcp.server.mcpserver.exceptions import ToolError

from demo_project.library.arguments import CHANGES, READS, Isbn, book_of
from demo_project.library.models import Book
from demo_project.library.results import ShelfView
from mcp_django import Context, Handle, Handler, RestoreMarker, mcp, tool


async def titles_of(isbns: list[str]) -> list[str]:
    """Books with their titles; those that have left the catalogue since then are left out."""
    titles = {book.isbn: book.title async for book in Book.objects.filter(isbn__in=isbns)}
    return [f"{titles[isbn]} ({isbn})" for isbn in isbns if isbn in titles]


class ReadingList(Handle):
    """A reading list; start_reading_list makes one."""


@mcp.tool(title="Start a reading list", annotations=CHANGES)
async def start_reading_list() -> ReadingList:
    """Start an empty reading list, for the other tools that take one. It is kept for two weeks after its last use."""
    return await ReadingList.acreate({"books": []})


@mcp.tool(title="Add to a reading list", annotations=CHANGES)
async def add_to_reading_list(reading_list: ReadingList, isbn: Isbn) -> list[str]:
    """Put a book on a reading list."""
    book = await book_of(isbn)

    def add(state: dict[str, list[str]]) -> list[str]:
        state["books"] = [*(kept for kept in state["books"] if kept != book.isbn), book.isbn]
        return state["books"]

    return await titles_of(await reading_list.state.amodify(add))


@mcp.tool(title="Read a reading list", annotations=READS)
async def show_reading_list(reading_list: ReadingList) -> list[str]:
    """The books on a reading list."""
    return await titles_of(await reading_list.state.aget("books"))


@mcp.register
class Shelf(Handler):
    """A shelf for each session: a list that nobody needs to carry along, for clients that have sessions.

    The books are in the session's durable state. The greeting is an attribute of this instance, so it goes when
    the session moves on.
    """

    greeting = ""

    REASONS = {
        "restart": "the server was restarted",
        "other_process": "another server process has taken over",
        "evicted": "the server had put this session aside",
    }

    async def on_restore(self, marker: RestoreMarker) -> None:
        kept = len(await self.session.state.aget("shelf", []))
        self.greeting = f"Welcome back: {self.REASONS[marker.reason]}, your shelf ({kept}) is still here."

    @tool(title="Put a book on my shelf", annotations=CHANGES)
    async def put_on_shelf(self, ctx: Context, isbn: Isbn) -> ShelfView:
        """Put a book on this session's shelf."""
        book = await book_of(isbn)

        def put(state: dict[str, list[str]]) -> None:
            shelf = state.setdefault("shelf", [])
            if book.isbn not in shelf:
                shelf.append(book.isbn)

        await ctx.state.amodify(put)
        return await self.view(ctx)

    @tool(title="Take a book off my shelf", annotations=CHANGES)
    async def take_off_shelf(self, ctx: Context, isbn: Isbn) -> ShelfView:
        """Take a book off this session's shelf."""
        book = await book_of(isbn)

        def take(state: dict[str, list[str]]) -> bool:
            shelf = state.get("shelf", [])
            if found := book.isbn in shelf:
                shelf.remove(book.isbn)
            return found

        if not await ctx.state.amodify(take):
            raise ToolError(f"{book.title!r} is not on the shelf. my_shelf shows what is.")
        return await self.view(ctx)

    @tool(title="My shelf", annotations=READS)
    async def my_shelf(self, ctx: Context) -> ShelfView:
        """What is on this session's shelf."""
        return await self.view(ctx)

    async def view(self, ctx: Context) -> ShelfView:
        isbns = await ctx.state.aget("shelf", [])
        greeting, self.greeting = self.greeting, ""
        return ShelfView(books=await titles_of(isbns), greeting=greeting)
