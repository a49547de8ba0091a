"""What the tools take: books by ISBN, readers by their card."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from demo_project.library import fill
from demo_project.library.models import Book, Member
from mcp_django import Context

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)

Isbn = Annotated[str, Field(description="ISBN-13 as search_books gives it, with or without hyphens")]
Card = Annotated[str | None, Field(description="Library card, such as LIB-0001. A session remembers it")]


async def book_of(isbn: str) -> Book:
    """The book to work with; the error tells the model how to find a right one."""
    book = await Book.objects.with_available().filter(isbn=isbn.replace("-", "").strip()).afirst()
    if book is None:
        raise ToolError(f"No book here has the ISBN {isbn!r}. search_books finds books by words of title or author.")
    return book


async def member_of(ctx: Context, card: str | None) -> Member:
    """The member whose card was named now, or before in this session, or who is logged in."""
    if card:
        member = await Member.objects.filter(card=card.strip().upper()).afirst()
        if member is None:
            raise ToolError(f"There is no card {card!r}. Cards run from {fill.card(1)} to {fill.card(fill.MEMBERS)}.")
        if ctx.has_session:
            await ctx.state.aset("card", member.card)
        return member
    if ctx.has_session and (remembered := await ctx.state.aget("card")):
        member = await Member.objects.filter(card=remembered).afirst()
    elif ctx.user.is_authenticated:
        member = await Member.objects.filter(user_id=ctx.user.pk).afirst()
    else:
        member = None
    if member is None:
        raise ToolError(
            f"Whose library card is it? Ask the reader, then call again with card='{fill.card(1)}' or theirs."
        )
    return member
