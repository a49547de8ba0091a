"""Servers under test. What a test wants to happen inside a tool or a hook it says on the stage."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import translation
from mcp.server.mcpserver import Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import Completion
from pydantic import BaseModel

from mcp_django import Authenticator, Context, Handler, MCPServer, Principal, RestoreMarker, resource, tool
from mcp_django.auth import DjangoLogin
from mcp_django.exceptions import HandlerError
from tests.protocol.stage import SECONDS, stage

SECRET = "the-password-in-an-exception"
TOKENS = {"token-of-alice": "alice", "token-of-bob": "bob"}


class Bearer(Authenticator):
    """Knows two tokens. Whom they stand for may or may not have a Django user."""

    def concerns(self, headers: dict[str, str]) -> bool:
        return "authorization" in headers

    def authenticate(self, request: HttpRequest) -> Principal | None:
        stage.visit_from_thread("authenticate")
        name = TOKENS.get(request.headers["Authorization"].removeprefix("Bearer "))
        if name is None:
            return None
        user = get_user_model().objects.filter(username=name).first()
        return Principal(f"bearer:{name}", user)


main = MCPServer(
    "protocol",
    title="Protocol tests",
    version="1.2.3",
    description="One of everything.",
    instructions="Call what you like.",
    authenticators=[Bearer()],
)
other = MCPServer("protocol-other", authenticators=[Bearer()])
site = MCPServer("protocol-site", authenticators=[DjangoLogin()])
empty = MCPServer("protocol-empty", authenticators=[])
long_lists = MCPServer("protocol-long-lists", authenticators=[])


# Tools


class Value(TypedDict):
    value: Any


class Facts(TypedDict):
    session_id: str
    user: str
    user_on_request: str
    path: str
    header: str | None
    version: str | None
    client: str
    log_level: str
    home: str
    restored: dict[str, Any] | None


def facts_of(ctx: Context) -> Facts:
    marker = ctx.restored
    return {
        "session_id": ctx.session_id,
        "user": ctx.user.get_username(),
        "user_on_request": ctx.request.user.get_username(),
        "path": ctx.request.path,
        "header": ctx.request.headers.get("X-Told"),
        "version": ctx.protocol_version,
        "client": ctx.client_info.name,
        "log_level": ctx.call.session.log_level,
        "home": reverse("protocol-home"),
        "restored": None if marker is None else {"reason": marker.reason, "count": marker.restore_count},
    }


@main.tool(title="Add")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@main.tool()
def multiply(a: int, b: int) -> int:
    """Multiply two numbers, in sync code."""
    return a * b


@main.tool()
async def facts(ctx: Context) -> Facts:
    """What async code sees of the call."""
    return facts_of(ctx)


@main.tool()
def facts_in_thread(ctx: Context) -> Facts:
    """What sync code sees of the call."""
    return facts_of(ctx)


@main.tool()
def count(ctx: Context) -> Value:
    """Count in the session's state."""
    return {"value": ctx.state.increment("count")}


@main.tool()
async def acount(ctx: Context) -> Value:
    """Count in the session's state, in async code."""
    return {"value": await ctx.state.aincrement("count")}


@main.tool()
async def state(ctx: Context) -> Value:
    """The session's whole state."""
    return {"value": await ctx.state.aall()}


FAILURES: dict[str, Exception] = {
    "tool": ToolError("The shelf is full."),
    "handler": HandlerError("The shelf is locked."),
    "plain": RuntimeError(SECRET),
    "mcp": MCPError(-32050, "The shelf is on fire.", {"where": "aisle 3"}),
}


@main.tool()
async def fail(how: Literal["tool", "handler", "plain", "mcp"]) -> Value:
    """Fail in one of several ways."""
    raise FAILURES[how]


@main.tool()
def fail_in_thread(how: Literal["tool", "handler", "plain", "mcp"]) -> Value:
    """Fail in one of several ways, in sync code."""
    raise FAILURES[how]


@main.tool()
async def pause(ctx: Context, place: str) -> Value:
    """Stop at a gate of the test's, and count in the session's state behind it."""
    try:
        await stage.visit(place)
        return {"value": await ctx.state.aincrement("paused")}
    finally:
        stage.record(f"left {place}")


@main.tool()
def pause_in_thread(ctx: Context, place: str) -> Value:
    """The same in sync code."""
    try:
        stage.visit_from_thread(place)
        return {"value": ctx.state.increment("paused")}
    finally:
        stage.record(f"left {place}")


@main.tool()
async def pause_in_query(place: str) -> Value:
    """Stop at a gate of the test's inside of a database query, by the async ORM."""
    queryset = Pausing(User)
    queryset.place = place
    return {"value": await queryset.acount()}


@main.tool()
async def wait_for_ever() -> Value:
    """Ends only if it is cancelled, or when the test has failed anyhow."""
    stage.record("waiting for ever")
    async with asyncio.timeout(SECONDS / 3):
        await asyncio.get_running_loop().create_future()
    return {"value": None}


class Pausing(QuerySet[User]):
    """A query that takes as long as the test wants it to."""

    place: str

    def count(self) -> int:
        try:
            stage.visit_from_thread(self.place)
            return super().count()
        finally:
            stage.record(f"left {self.place}")


class Meeting(QuerySet[User]):
    """Counts rows and then waits for all others of the party, its connection open and its thread blocked. So they
    meet only if all of their queries run at the same time."""

    size: int

    def count(self) -> int:
        super().count()
        stage.meet(self.size)
        return super().count()


def meeting(size: int) -> Meeting:
    queryset = Meeting(User)
    queryset.size = size
    return queryset


@main.tool()
async def meet(size: int) -> Value:
    """Query the database together with `size` others, by the async ORM."""
    return {"value": await meeting(size).acount()}


@main.tool()
def meet_in_thread(size: int) -> Value:
    """Query the database together with `size` others, in sync code."""
    return {"value": meeting(size).count()}


mood: contextvars.ContextVar[str] = contextvars.ContextVar("mood", default="calm")


class Surroundings(TypedDict):
    language: str
    mood: str


def surroundings() -> Surroundings:
    return {"language": translation.get_language(), "mood": mood.get()}


@main.tool()
async def look_around(language: str | None = None) -> Surroundings:
    """Say what was found, and leave another language and mood behind."""
    found = surroundings()
    if language is not None:
        translation.activate(language)
        mood.set("angry")
    return found


@main.tool()
def look_around_in_thread(language: str | None = None) -> Surroundings:
    """The same in sync code."""
    found = surroundings()
    if language is not None:
        translation.activate(language)
        mood.set("angry")
    return found


class Mood(BaseModel):
    mood: str


@main.tool()
async def talk(ctx: Context) -> Value:
    """Report progress and log on the way: what one answer cannot deliver is left out."""
    await ctx.report_progress(1, 2, "half")
    await ctx.info("halfway")
    await ctx.report_progress(2, 2)
    return {"value": "done"}


@main.tool()
async def ask(ctx: Context) -> Value:
    """Ask the client: there is no way to it without a stream."""
    answer = await ctx.elicit("How do you do?", Mood)
    return {"value": answer.action}


def rate_of(price: int) -> int:
    """A sync resolver: runs the ORM, so it must not run in the event loop."""
    User.objects.count()
    return 10 if price > 100 else 0


@main.tool()
async def discount(price: int, rate: Annotated[int, Resolve(rate_of)]) -> int:
    """A tool with a parameter that no client sends."""
    return price - price * rate // 100


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"shelf": {"$ref": "#/$defs/shelf"}},
    "$defs": {"shelf": {"type": "string", "pattern": "^[A-Z][0-9]+$"}},
    "required": ["shelf"],
    "additionalProperties": False,
}


@main.tool(input_schema=SCHEMA)
def with_schema(shelf: str) -> str:
    """A tool that shows a schema of its own."""
    return shelf


@main.tool()
async def odd(kind: Literal["nan", "surrogate", "nul"]) -> Value:
    """Return what JSON can hardly say."""
    return {"value": {"nan": float("nan"), "surrogate": "half \ud800 a pair", "nul": "a\x00b"}[kind]}


# Prompts


@main.prompt(title="Greeting")
async def greet(name: str, style: str = "plain") -> str:
    """Greet somebody."""
    return f"Greet {name}, {style}."


@main.prompt()
def repeat(times: int) -> str:
    """Repeat something, in sync code."""
    return "again " * times


@main.prompt()
def broken_prompt() -> str:
    """Always fails."""
    raise RuntimeError(SECRET)


# Resources


@main.resource("test://session", mime_type="text/plain")
async def session_resource(ctx: Context) -> str:
    """Knows its reader."""
    return f"{ctx.client_info.name} reads"


@main.resource("test://users", mime_type="application/json")
def users_resource() -> dict[str, int]:
    """Asks the database, in sync code."""
    return {"users": User.objects.count()}


@main.resource("test://bytes", mime_type="application/octet-stream")
def bytes_resource() -> bytes:
    """Not a text."""
    return b"\x00\x01\xff"


@main.resource("test://broken")
def broken_resource() -> str:
    """Always fails."""
    raise RuntimeError(SECRET)


@main.resource("test://books/{isbn}", mime_type="text/plain")
def book(ctx: Context, isbn: str) -> str:
    """A template, in sync code."""
    return f"book {isbn} for {ctx.client_info.name}"


# Completions: asked in order, the first that knows something answers.


@main.completion()
async def complete_name(ref: Any, argument: Any, context: Any) -> list[str] | None:
    if argument.name != "name":
        return None
    return [f"{argument.value}{number:03}" for number in range(150)]


@main.completion()
def complete_style(ref: Any, argument: Any, context: Any) -> list[str] | None:
    if argument.name != "style":
        return None
    styles = ["plain", "polite", "pompous"]
    already = context.arguments if context is not None else None
    return [style for style in styles if style.startswith(argument.value)] + ([already["name"]] if already else [])


@main.completion()
def complete_isbn(ref: Any, argument: Any, context: Any, ctx: Context) -> Completion | None:
    if argument.name != "isbn":
        return None
    return Completion(values=[f"{ref.uri} {ctx.client_info.name}"], total=7, has_more=True)


# Handlers


class Handled(TypedDict):
    instance: int
    session_is_mine: bool
    home_at_handshake: str


@main.register
class First(Handler):
    """Async hooks; one of each kind of method."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.instance = self.made
        stage.record("made")

    async def on_initialize(self, params: Any, marker: RestoreMarker | None) -> None:
        self.home = reverse("protocol-home")
        await stage.visit("on_initialize", (params.client_info.name, marker))

    async def on_initialized(self, marker: RestoreMarker | None) -> None:
        await stage.visit("on_initialized", marker)

    async def on_restore(self, marker: RestoreMarker) -> None:
        await stage.visit("on_restore", marker)

    @tool()
    async def handled(self, ctx: Context) -> Handled:
        """Which instance serves the session, and what it knows."""
        return self.handled_by(ctx)

    @tool()
    def handled_in_thread(self, ctx: Context) -> Handled:
        """The same in sync code."""
        return self.handled_by(ctx)

    def handled_by(self, ctx: Context) -> Handled:
        return {
            "instance": self.instance,
            "session_is_mine": self.session is ctx.call.session,
            "home_at_handshake": self.home,
        }

    @resource("test://handled/{name}")
    def handled_resource(self, name: str) -> str:
        """A template of the instance's."""
        return f"{name} from {self.instance}"


@main.register
class Second(Handler):
    """Sync hooks, which use the ORM and the state; registered after the first."""

    def on_initialize(self, params: Any, marker: RestoreMarker | None) -> None:
        User.objects.count()
        stage.visit_from_thread("second on_initialize")

    def on_initialized(self, marker: RestoreMarker | None) -> None:
        stage.visit_from_thread("second on_initialized")

    def on_restore(self, marker: RestoreMarker) -> None:
        stage.visit_from_thread("second on_restore", self.session.state.get("count"))

    @tool()
    def second(self) -> str:
        """A tool, since a handler class without any is refused."""
        return "second"


# The other servers


@other.tool(name="add")
async def add_there(a: int, b: int) -> int:
    """Add two numbers on another server."""
    return a + b


@other.register
class Remembering(Handler):
    """Hooks that keep things in the session's state."""

    async def on_initialize(self, params: Any, marker: RestoreMarker | None) -> None:
        if marker is None:
            await self.session.state.aset("opened_by", params.client_info.name)

    def on_initialized(self, marker: RestoreMarker | None) -> None:
        self.session.state.increment("initialized")

    @tool()
    async def remembered(self, ctx: Context) -> Value:
        """What the hooks kept."""
        return {"value": await ctx.state.aall()}


site.tool(name="facts")(facts)
site.tool(name="facts_in_thread")(facts_in_thread)


LENGTH = 7

for number in range(LENGTH):

    @long_lists.tool(name=f"tool_{number}")
    async def _tool() -> str:
        """One of many."""
        return "done"

    @long_lists.prompt(name=f"prompt_{number}")
    async def _prompt() -> str:
        """One of many."""
        return "done"

    @long_lists.resource(f"test://resource/{number}")
    async def _resource() -> str:
        """One of many."""
        return "done"

    @long_lists.resource(f"test://template/{number}/{{rest}}")
    async def _template(rest: str) -> str:
        """One of many."""
        return rest
