"""A book as a card that the client's application shows, where it can show pages (the MCP Apps extension)."""

from __future__ import annotations

from django.template.loader import render_to_string
from mcp.server.apps import Apps

from demo_project.library.arguments import READS, Isbn, book_of
from demo_project.library.results import BookView
from mcp_django import mcp

CARD = "ui://library/card.html"

apps = Apps()


@apps.tool(resource_uri=CARD, title="Show a book", annotations=READS)
async def show_book(isbn: Isbn) -> BookView:
    """Show one book to the reader, as a card where there is room for one."""
    return BookView.of(await book_of(isbn))


apps.add_html_resource(CARD, render_to_string("library/card.html"), title="Book card", prefers_border=True)
mcp.extend(apps)
