"""The library's card: a tool with a page, for clients that show pages and for those that do not."""

from __future__ import annotations

import json

import pytest

from demo_project.library import catalogue
from demo_project.library.cards import CARD
from tests.protocol.client import Client, text_of
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio

ISBN = catalogue.book(0).isbn
PAGE = "text/html;profile=mcp-app"


async def test_the_tool_names_its_page_and_the_page_can_be_read(library: Client) -> None:
    one = Stateless(library)
    tools = {tool["name"]: tool for tool in (await one.request("tools/list")).result["tools"]}
    assert tools["show_book"]["_meta"]["ui"]["resourceUri"] == CARD
    assert "_meta" not in tools["search_books"]
    (content,) = (await one.request("resources/read", {"uri": CARD})).result["contents"]
    assert content["mimeType"] == PAGE
    assert content["text"].startswith("<!doctype html>")
    assert "ui/initialize" in content["text"]


async def test_the_extension_is_declared(library: Client) -> None:
    discovered = (await Stateless(library).request("server/discover")).result
    assert discovered["capabilities"]["extensions"] == {"io.modelcontextprotocol/ui": {}}


async def test_clients_that_show_no_pages_are_told_the_same_in_words(library: Client) -> None:
    session = await library.open()
    for result in (
        await session.call_tool("show_book", isbn=ISBN),
        await Stateless(library).call_tool("show_book", {"isbn": ISBN}),
    ):
        book = result["structuredContent"]
        assert book["title"] == catalogue.book(0).title
        assert json.loads(text_of(result)) == book
