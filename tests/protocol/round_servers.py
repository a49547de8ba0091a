"""A server whose tools ask in every way there is, and mirror arguments in headers."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Annotated, Any, TypedDict

from asgiref.sync import async_to_sync
from mcp.server.apps import Apps, client_supports_apps
from mcp.server.mcpserver import Elicit, Resolve
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field

from mcp_django import Context, Handler, MCPServer, prompt, resource, tool
from mcp_django.auth import public
from tests.protocol.servers import Bearer
from tests.protocol.stage import stage

asking = MCPServer("protocol-asking", version="2.0", authenticators=[Bearer(), public])
cached = MCPServer("protocol-cached", authenticators=[public], cache_ttl=timedelta(minutes=5))
handshake_only = MCPServer("protocol-handshake-only", authenticators=[public], stateless=False)


class Value(TypedDict):
    value: Any


class Name(BaseModel):
    name: str


class Colour(BaseModel):
    colour: str


@handshake_only.tool()
async def greet() -> Value:
    """Say hello."""
    return {"value": "hello"}


async def asked(ctx: Context, text: str, form: type[BaseModel]) -> Any:
    answer = await ctx.elicit(text, form)
    return next(iter(answer.data.model_dump().values())) if answer.action == "accept" else answer.action


@asking.tool()
async def whoami(ctx: Context) -> Value:
    """Say who calls."""
    return {"value": [ctx.user.get_username(), ctx.client_info.name if ctx.client_info else None]}


@cached.resource("cached://day", cache_ttl=timedelta(days=1))
async def day() -> str:
    """Keeps for a day."""
    return "day"


@cached.resource("cached://{word}", cache_ttl=timedelta(seconds=1))
async def word_for_a_second(word: str) -> str:
    """Keeps for a second."""
    return word


@cached.resource("cached://never")
async def never() -> str:
    """Does not keep."""
    return "never"


# Extensions

apps = Apps()


@apps.tool(resource_uri="ui://clock/app.html", title="Clock")
def clock(ctx: Context) -> str:
    """Tell the time, with a face where the client can show one."""
    stage.record("thread", threading.current_thread().name)
    return "a face" if client_supports_apps(ctx) else "noon"


apps.add_html_resource("ui://clock/app.html", "<!doctype html><title>Clock</title>")
cached.extend(apps)


# By the context


@asking.tool()
async def ask_name(ctx: Context, greeting: str = "Hello") -> Value:
    """Ask one question."""
    stage.record("run")
    return {"value": f"{greeting}, {await asked(ctx, 'What is your name?', Name)}"}


@asking.tool()
async def ask_twice(ctx: Context) -> Value:
    """Ask a question that depends on the answer to another."""
    name = await asked(ctx, "What is your name?", Name)
    colour = await asked(ctx, f"Which colour do you like, {name}?", Colour)
    return {"value": f"{name} likes {colour}."}


@asking.tool()
async def ask_together(ctx: Context) -> Value:
    """Ask two questions at once."""
    found = await asyncio.gather(asked(ctx, "Name?", Name), asked(ctx, "Colour?", Colour))
    return {"value": list(found)}


@asking.tool()
async def ask_in_group(ctx: Context) -> Value:
    """Ask two questions in a task group."""
    async with asyncio.TaskGroup() as group:
        name = group.create_task(asked(ctx, "Name?", Name))
        colour = group.create_task(asked(ctx, "Colour?", Colour))
    return {"value": [name.result(), colour.result()]}


@asking.tool()
def ask_in_thread(ctx: Context) -> Value:
    """Ask from sync code."""
    return {"value": async_to_sync(asked)(ctx, "What is your name?", Name)}


@asking.tool()
async def ask_anew(ctx: Context) -> Value:
    """Ask another question in each run."""
    stage.record("run")
    return {"value": await asked(ctx, f"Question {stage.count('run')}?", Name)}


@asking.tool()
async def ask_in_spite(ctx: Context) -> Value:
    """Ask, and take everything for an error."""
    try:
        return {"value": await asked(ctx, "What is your name?", Name)}
    except BaseException as error:
        raise ValueError("something went wrong") from error


@asking.tool()
async def ask_and_fail(ctx: Context) -> Value:
    """Ask, and fail with the answer."""
    raise ValueError(await asked(ctx, "What is your name?", Name))


@asking.tool()
async def ask_for_url(ctx: Context) -> Value:
    """Ask the user to open a page."""
    answer = await ctx.elicit_url("Log in.", "https://example.com/login", "elicitation-1")
    return {"value": answer.action}


@asking.tool()
async def ask_model(ctx: Context) -> Value:
    """Ask the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text="Well?"))
    answer = await ctx.session.create_message([message], max_tokens=5)
    return {"value": answer.model_dump(by_alias=True)["content"]["text"]}


@asking.tool()
async def ask_roots(ctx: Context) -> Value:
    """Ask for the client's roots."""
    return {"value": [str(root.uri) for root in (await ctx.session.list_roots()).roots]}


@asking.tool()
async def ask_ping(ctx: Context) -> Value:
    """Ask for a sign of life."""
    await ctx.session.send_ping()
    return {"value": "alive"}


# By resolvers


def name_of_user() -> Elicit[Name]:
    stage.record("resolver")
    return Elicit("What is your name?", Name)


@asking.tool()
async def resolve_name(name: Annotated[Name, Resolve(name_of_user)]) -> Value:
    """Ask by a resolver."""
    return {"value": name.name}


@asking.tool()
async def resolve_and_ask(name: Annotated[Name, Resolve(name_of_user)], ctx: Context) -> Value:
    """Ask by a resolver, then by the context, twice."""
    colour = await asked(ctx, f"Which colour do you like, {name.name}?", Colour)
    other = await asked(ctx, f"And apart from {colour}?", Colour)
    return {"value": f"{name.name} likes {colour} and {other}."}


# By hand


def form(text: str, model: type[BaseModel]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=text, requested_schema=model.model_json_schema()))


def content_of(ctx: Context, key: str) -> dict[str, Any] | None:
    found = (ctx.input_responses or {}).get(key)
    return dict(found.content or {}) if isinstance(found, ElicitResult) and found.action == "accept" else None


@asking.tool()
async def by_hand(ctx: Context) -> Value | InputRequiredResult:
    """Ask in two rounds of its own making."""
    stage.record("run", ctx.request_state)
    name = ctx.request_state or (content_of(ctx, "name") or {}).get("name")
    if name is None:
        return InputRequiredResult(input_requests={"name": form("Name?", Name)})
    colour = content_of(ctx, "colour")
    if colour is None:
        return InputRequiredResult(input_requests={"colour": form(f"Colour, {name}?", Colour)}, request_state=name)
    return {"value": f"{name} likes {colour['colour']}."}


@asking.tool()
async def by_hand_and_context(ctx: Context) -> Value | InputRequiredResult:
    """Ask by hand, then by the context."""
    name = content_of(ctx, "name")
    if name is None:
        requests: InputRequests = {"name": form("Name?", Name)}
        return InputRequiredResult(input_requests=requests, request_state="by hand")
    assert ctx.request_state == "by hand"
    return {"value": f"{name['name']} likes {await asked(ctx, 'Colour?', Colour)}."}


@asking.tool()
async def by_hand_for_ever() -> InputRequiredResult:
    """Never have enough."""
    return InputRequiredResult(input_requests={"name": form("Name?", Name)})


@asking.tool()
async def by_hand_undeclared() -> InputRequiredResult:
    """Ask for a form and for a model, whatever the client can do."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text="Well?"))
    params = CreateMessageRequestParams(messages=[message], max_tokens=5)
    return InputRequiredResult(
        input_requests={"name": form("Name?", Name), "model": CreateMessageRequest(params=params)}
    )


@asking.tool()
async def needs_page(ctx: Context) -> Value:
    """Cannot go on before the user has opened a page."""
    if stage.count("page opened"):
        return {"value": "thank you"}
    page = ElicitRequestURLParams(message="Log in.", url="https://example.com/login", elicitation_id="e-1")
    raise UrlElicitationRequiredError([page])


# Prompts and resources


@asking.prompt()
async def ask_in_prompt(ctx: Context) -> str:
    """Ask, then say what was answered."""
    return f"Greet {await asked(ctx, 'Whom?', Name)}."


@asking.resource("ask://{topic}")
async def ask_in_resource(topic: str, ctx: Context) -> str:
    """Ask, then say what was answered."""
    return f"{await asked(ctx, f'About {topic}?', Name)} on {topic}"


@asking.tool()
async def ask_by_reading(ctx: Context) -> Value:
    """Ask, and read a resource that asks."""
    name = await asked(ctx, "Name?", Name)
    contents = await ctx.read_resource("ask://books")
    return {"value": [name, *(item.content for item in contents)]}


# Classes


@asking.register
class Counter(Handler):
    """Counts in an attribute, and in the session."""

    def __init__(self) -> None:
        self.calls = 0

    def on_initialize(self, params: Any, marker: Any) -> None:
        stage.record("on_initialize")

    @tool()
    async def count_here(self) -> Value:
        """How often this instance was called."""
        self.calls += 1
        return {"value": self.calls}

    @tool()
    async def count_in_session(self) -> Value:
        """How often it was called in this session."""
        return {"value": await self.session.state.aincrement("count")}

    @prompt()
    async def count_in_prompt(self) -> str:
        """The same as a prompt."""
        return str((await self.count_here())["value"])

    @resource("count://here")
    async def count_in_resource(self) -> str:
        """The same as a resource."""
        return str((await self.count_here())["value"])


# Arguments mirrored in headers


@asking.tool()
async def mirrored(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "",
    count: Annotated[int, Field(json_schema_extra={"x-mcp-header": "Count"})] = 0,
    sure: Annotated[bool, Field(json_schema_extra={"x-mcp-header": "Sure"})] = False,
    plain: str = "",
) -> Value:
    """Say what came."""
    return {"value": [region, count, sure, plain]}


@asking.tool(enabled=lambda: bool(stage.count("hidden is shown")))
async def hidden_mirrored(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> Value:
    """Is not always there."""
    return {"value": region}
