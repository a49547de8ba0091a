"""Servers under test. What a test wants to happen inside a tool or a hook it says on the stage."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import translation
from mcp.server.mcpserver import Elicit, Resolve
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import Completion, SamplingMessage, TextContent, Tool
from pydantic import BaseModel

from mcp_django import Authenticator, Context, Handler, MCPServer, Principal, RestoreMarker, prompt, resource, tool
from mcp_django.auth import DjangoLogin, public
from mcp_django.exceptions import ClientCannot, HandlerError
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
    authenticators=[Bearer(), public],
)
other = MCPServer("protocol-other", authenticators=[Bearer(), public])
site = MCPServer("protocol-site", authenticators=[DjangoLogin(), public])
empty = MCPServer("protocol-empty", authenticators=[public])
long_lists = MCPServer("protocol-long-lists", authenticators=[public])
switching = MCPServer("protocol-switching", authenticators=[Bearer(), public])


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


def name_of(ctx: Context) -> str:
    return ctx.client_info.name if ctx.client_info else ""


def facts_of(ctx: Context) -> Facts:
    marker = ctx.restored
    return {
        "session_id": ctx.session_id,
        "user": ctx.user.get_username(),
        "user_on_request": ctx.request.user.get_username(),
        "path": ctx.request.path,
        "header": ctx.request.headers.get("X-Told"),
        "version": ctx.protocol_version,
        "client": name_of(ctx),
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
    """Report progress and log on the way."""
    await ctx.report_progress(1, 2, "half")
    await ctx.info("halfway")
    await ctx.report_progress(2, 2)
    return {"value": "done"}


@main.tool()
async def steps(ctx: Context, steps: int, size: int = 0) -> Value:
    """Report so much progress, with texts of a size. Before each step and before the end there is a gate."""
    for number in range(1, steps + 1):
        await stage.visit(f"step {number}")
        await ctx.report_progress(number, steps, "x" * size or None)
    await stage.visit("end")
    return {"value": steps}


@main.tool()
async def tell_secrets(ctx: Context) -> Facts:
    """Tell what nobody should, in progress and in the result."""
    await ctx.report_progress(1, 1, f"the session is {ctx.session_id}")
    return facts_of(ctx)


ODD: dict[str, str] = {"nul": "a\x00b", "surrogate": "half \ud800 a pair", "large": "x" * 10_000}


@main.tool()
async def tell_odd_text(ctx: Context, kind: Literal["surrogate", "nul"]) -> Value:
    """Say what databases or UTF-8 cannot hold."""
    await ctx.report_progress(1, message=ODD[kind])
    return {"value": None}


@main.tool()
async def return_odd_text(ctx: Context, kind: Literal["nul", "large"]) -> Value:
    """Return what databases or a stream cannot hold."""
    await ctx.report_progress(1)
    return {"value": ODD[kind]}


@main.tool()
async def report_odd_progress(ctx: Context, kind: Literal["nan", "large"]) -> Value:
    """Report what cannot be told, then what can."""
    failed = ""
    try:
        await ctx.report_progress(float("nan") if kind == "nan" else 1, message=ODD["large"])
    except (ValueError, HandlerError) as error:
        failed = type(error).__name__
    await ctx.report_progress(2)
    return {"value": failed}


@main.tool()
async def poll(ctx: Context, times: int, loud: bool = False) -> Value:
    """The polling pattern: send the client away, work, say something, and so again, and answer it when it is back."""
    if loud:
        await ctx.report_progress(0)
    for number in range(1, times + 1):
        await ctx.close_sse_stream()
        await stage.visit(f"work {number}")
        await ctx.report_progress(number)
    return {"value": "done"}


@main.tool()
async def outlive(ctx: Context, loud: bool) -> Value:
    """Leave a task behind that goes on to use the context."""

    async def go_on() -> None:
        await stage.visit("afterwards")
        await ctx.report_progress(99)
        try:
            await ctx.elicit("Still there?", Mood)
        except ClientCannot as error:
            stage.record("could not ask", str(error))

    stage.tasks.append(asyncio.create_task(go_on()))
    if loud:
        await ctx.report_progress(1)
    return {"value": "done"}


@main.tool()
async def leave_question(ctx: Context) -> Value:
    """Leave a task behind that waits for an answer."""

    async def wait() -> str:
        try:
            await ctx.call.send_raw_request("ping", None, {"timeout": 0.2})
        except MCPError as error:
            return str(error)
        return "answered"

    stage.tasks.append(asyncio.create_task(wait()))
    await stage.visit("asked")
    return {"value": "done"}


# Questions to the client


@main.tool()
async def ask(ctx: Context) -> Value:
    """Ask the user to fill in a form."""
    answer = await ctx.elicit("How do you do?", Mood)
    return {"value": answer.data.mood if answer.action == "accept" else answer.action}


def mood_of_user() -> Elicit[Mood]:
    """A resolver that leaves the asking to the SDK."""
    return Elicit("How do you do?", Mood)


@main.tool()
async def ask_by_resolver(answer: Annotated[Mood, Resolve(mood_of_user)]) -> Value:
    """Ask the user before the tool runs."""
    return {"value": answer.mood}


@main.tool()
async def ask_by_url(ctx: Context) -> Value:
    """Ask the user to open a page."""
    answer = await ctx.elicit_url("Log in.", "https://example.com/login", "elicitation-1")
    return {"value": answer.action}


@main.tool()
async def ask_model(ctx: Context, tools: bool = False) -> Value:
    """Ask the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text="Well?"))
    offered = [Tool(name="look", input_schema={"type": "object"})] if tools else None
    answer = await ctx.session.create_message([message], max_tokens=5, tools=offered)
    return {"value": answer.model_dump(by_alias=True)["content"]}


@main.tool()
async def ask_roots(ctx: Context) -> Value:
    """Ask for the client's roots."""
    answer = await ctx.session.list_roots()
    return {"value": [str(root.uri) for root in answer.roots]}


@main.tool()
async def ask_ping(ctx: Context) -> Value:
    """Ask the client for a sign of life."""
    await ctx.session.send_ping()
    return {"value": "alive"}


@main.tool()
async def ask_briefly(ctx: Context, seconds: float) -> Value:
    """Ask, with a patience of the tool's own."""
    return {"value": await ctx.call.send_raw_request("ping", None, {"timeout": seconds})}


@main.tool()
async def ask_together(ctx: Context, count: int) -> Value:
    """Ask several questions at once."""
    answers = await asyncio.gather(*(ctx.elicit(f"Number {number}?", Mood) for number in range(count)))
    return {"value": [answer.data.mood for answer in answers if answer.action == "accept"]}


@main.tool()
async def pause_and_ask(ctx: Context) -> Value:
    """Ask behind a gate."""
    await stage.visit("before the question")
    answer = await ctx.elicit("How do you do?", Mood)
    return {"value": answer.data.mood if answer.action == "accept" else answer.action}


@main.tool()
async def ask_if_possible(ctx: Context) -> Value:
    """Ask, and go on without an answer if nobody can be asked."""
    try:
        await ctx.elicit("How do you do?", Mood)
    except ClientCannot:
        return {"value": "went without"}
    return {"value": "asked"}


@main.tool()
async def query_and_ask(ctx: Context) -> Value:
    """Use the database before and after a question."""
    before = await User.objects.acount()
    answer = await ctx.elicit("How do you do?", Mood)
    return {"value": [before, answer.action, await User.objects.acount()]}


# Notices


@main.tool()
def change_lists_in_thread(ctx: Context, outcome: Literal["commit", "roll back", "none"]) -> Value:
    """Sync code that changes lists, inside of a transaction or without one."""
    if outcome == "none":
        main.notify_tools_changed()
        return {"value": None}
    try:
        with transaction.atomic():
            main.notify_tools_changed()
            stage.visit_from_thread("within")
            if outcome == "roll back":
                raise RuntimeError
    except RuntimeError:
        return {"value": "rolled back"}
    return {"value": "committed"}


@main.tool()
async def change_lists(ctx: Context, which: list[str]) -> Value:
    """Async code that changes lists, by the context."""
    for kind in which:
        await {
            "tools": ctx.notify_tools_changed,
            "prompts": ctx.notify_prompts_changed,
            "resources": ctx.notify_resources_changed,
        }[kind]()
    return {"value": which}


@main.tool()
async def change_lists_as_the_sdk_does(ctx: Context) -> Value:
    """The SDK's own methods are for the caller's session."""
    await ctx.session.send_tool_list_changed()
    await ctx.session.send_resource_updated("test://users")
    return {"value": None}


@main.tool()
async def session_key(ctx: Context) -> str:
    """What names the session without giving it away."""
    return ctx.session_key


def rate_of(price: int) -> int:
    """A sync resolver: runs the ORM, so it must not run in the event loop."""
    User.objects.count()
    return 10 if price > 100 else 0


@main.tool()
async def excerpt(uri: str, ctx: Context) -> Value:
    """Read a resource of this server, and go without if there is none."""
    try:
        (content,) = await ctx.read_resource(uri)
    except ResourceNotFoundError:
        return {"value": "went without"}
    return {"value": str(content.content)}


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
    return f"{name_of(ctx)} reads"


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
    return f"book {isbn} for {name_of(ctx)}"


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
    return Completion(values=[f"{ref.uri} {name_of(ctx)}"], total=7, has_more=True)


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


# What is offered while a user of the name "open" exists. "sync" and "async" say how that is found out.


def is_open() -> bool:
    stage.visit_from_thread("asked sync", threading.current_thread().name)
    return User.objects.filter(username="open").exists()


async def is_open_async() -> bool:
    await stage.visit("asked async", threading.current_thread().name)
    return await User.objects.filter(username="open").aexists()


@switching.tool()
async def always() -> str:
    """Cannot be hidden."""
    return "always"


@switching.tool()
async def read(ctx: Context, uri: str) -> str:
    """Reads a resource of this server."""
    (content,) = await ctx.read_resource(uri)
    return str(content.content)


for how, enabled in (("sync", is_open), ("async", is_open_async)):

    @switching.tool(name=f"{how}_tool", enabled=enabled)
    async def _switched_tool() -> str:
        """Offered now and then."""
        return "a tool"

    @switching.prompt(name=f"{how}_prompt", enabled=enabled)
    async def _switched_prompt() -> str:
        """Offered now and then."""
        return "a prompt"

    @switching.resource(f"test://{how}/static", enabled=enabled)
    async def _switched_resource() -> str:
        """Offered now and then."""
        return "a resource"

    @switching.resource(f"test://{how}/made/{{name}}", enabled=enabled)
    async def _switched_template(name: str) -> str:
        """Offered now and then."""
        return f"made for {name}"


@switching.resource("test://{how}/made/{other_name}")
async def stand_in(how: str, other_name: str) -> str:
    """Matches what a template before it does."""
    return f"a stand-in for {other_name}"


@switching.register
class Switched(Handler):
    """Methods may be hidden as well."""

    @tool(enabled=is_open)
    async def method_tool(self) -> str:
        """Offered now and then."""
        return "a method"

    @resource("test://method/static", enabled=is_open_async)
    def method_resource(self) -> str:
        """Offered now and then."""
        return "a method's"

    @prompt(enabled=is_open)
    def method_prompt(self) -> str:
        """Offered now and then."""
        return "a method's"
