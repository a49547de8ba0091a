"""Two servers with the same handlers, which make handles and take them back in every way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict

from pydantic import BaseModel

from mcp_django import Context, Handle, Handler, MCPServer, tool
from mcp_django.auth import public
from tests.protocol.servers import Bearer, Value
from tests.protocol.stage import stage

first = MCPServer("handles", authenticators=[Bearer(), public])
second = MCPServer("handles-second", authenticators=[Bearer(), public])
both = (first, second)


class ReadingList(Handle):
    """A reading list; start makes one."""


class Cart(Handle):
    """A cart; start_cart makes one."""

    ttl = timedelta(hours=1)


class View(BaseModel):
    reading_list: ReadingList
    size: int


class Typed(TypedDict):
    reading_list: ReadingList


def on_both(fn: Any) -> Any:
    for server in both:
        server.tool()(fn)
    return fn


@on_both
def start() -> ReadingList:
    """Start a reading list."""
    return ReadingList.create({"books": []})


@on_both
async def astart() -> ReadingList:
    """Start a reading list, in async code."""
    return await ReadingList.acreate({"books": []})


@on_both
async def start_cart() -> Cart:
    """Start a cart."""
    return await Cart.acreate()


@on_both
def add(reading_list: ReadingList, title: str) -> list[str]:
    """Add a book."""

    def append(state: dict[str, Any]) -> list[str]:
        state["books"].append(title)
        return list(state["books"])

    return reading_list.state.modify(append)


@on_both
def count(reading_list: ReadingList) -> int:
    """Count in the handle's state."""
    return int(reading_list.state.increment("count"))


@on_both
async def acount(reading_list: ReadingList) -> int:
    """Count in the handle's state, in async code."""
    return int(await reading_list.state.aincrement("count"))


@on_both
async def show(reading_list: ReadingList) -> Value:
    """The handle's state."""
    return {"value": await reading_list.state.aall()}


@on_both
async def ignore(reading_list: ReadingList) -> bool:
    """Take a handle and do nothing with it."""
    stage.record("ignored")
    return True


@on_both
async def ignore_cart(cart: Cart) -> bool:
    """Take a handle of another kind."""
    return True


@on_both
def end(reading_list: ReadingList) -> bool:
    """End the reading list."""
    reading_list.end()
    return True


@on_both
async def aend_twice(reading_list: ReadingList) -> bool:
    """End the reading list, and once more."""
    await reading_list.aend()
    await reading_list.aend()
    return True


@on_both
async def end_and_use(reading_list: ReadingList) -> int:
    """End the reading list, and go on with it."""
    await reading_list.aend()
    return int(await reading_list.state.aincrement("count"))


@on_both
async def start_or_go_on(reading_list: ReadingList | None = None) -> ReadingList:
    """Count in a reading list, in a new one if none is given."""
    found = reading_list or await ReadingList.acreate()
    await found.state.aincrement("count")
    return found


@on_both
async def start_several(number: int) -> list[ReadingList]:
    """Start some reading lists."""
    return [await ReadingList.acreate() for _ in range(number)]


@on_both
async def count_in_all(reading_lists: list[ReadingList]) -> list[int]:
    """Count in each."""
    return [await found.state.aincrement("count") for found in reading_lists]


@on_both
async def start_with_view() -> View:
    """Start a reading list, and show it in a model."""
    return View(reading_list=await ReadingList.acreate(), size=0)


@on_both
async def start_typed() -> Typed:
    """Start a reading list, and show it in a dictionary."""
    return {"reading_list": await ReadingList.acreate()}


@on_both
async def start_untold() -> Any:
    """Start a reading list, and say nothing of it in the signature."""
    return await ReadingList.acreate()


@on_both
async def use_in_model(view: View) -> int:
    """A handle inside of a model, which is looked up when it is used."""
    stage.record("used in a model")
    return int(await view.reading_list.state.aincrement("count"))


@on_both
async def use_text(text: str) -> int:
    """A handle that the tool makes of a text itself."""
    return int(await ReadingList(text).state.aincrement("count"))


@on_both
async def start_too_large() -> ReadingList:
    """Put more into a reading list than there may be."""
    return await ReadingList.acreate({"books": "x" * 1_000_000})


kept: list[ReadingList] = []


@on_both
async def keep(reading_list: ReadingList) -> int:
    """Keep the object for later calls, as no handler should."""
    kept[:] = [reading_list]
    return int(await reading_list.state.aincrement("count"))


@on_both
async def use_kept() -> int:
    """Use the object that a former call has kept."""
    return int(await kept[0].state.aincrement("count"))


class Lists(Handler):
    @tool()
    def method(self, ctx: Context, reading_list: ReadingList) -> int:
        """A method that takes a handle."""
        return int(reading_list.state.increment("count"))

    @tool()
    async def amethod(self, reading_list: ReadingList) -> ReadingList:
        """A method that takes a handle and gives it back."""
        return reading_list


for server in both:
    server.register(Lists)


@first.prompt()
async def advise(reading_list: ReadingList) -> str:
    """Ask for advice."""
    return f"Advise on {await reading_list.state.aget('books')}."


@first.resource("lists://{reading_list}")
def resource_of_list(reading_list: ReadingList) -> list[str]:
    """A reading list to read."""
    books: list[str] = reading_list.state.get("books")
    return books
