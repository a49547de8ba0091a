"""Servers that not everybody may enter, and things that not everybody is offered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpRequest
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp_types import (
    CallToolResult,
    ContentBlock,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    TextContent,
)
from pydantic import Field

from mcp_django import Authenticator, Context, Handler, MCPServer, Principal, prompt, resource, tool
from mcp_django.auth import AuthenticationFailed, DjangoLogin, public
from mcp_django.exceptions import HandlerError
from tests.protocol.servers import Value, count, facts
from tests.protocol.stage import stage


@dataclass(frozen=True)
class Grant:
    """What a token stands for."""

    username: str = ""
    client: str = ""
    scopes: frozenset[str] | None = None
    can_step_up: bool = False


granted: dict[str, Grant] = {}
"""The tokens that are valid now."""


class Tokens(Authenticator):
    """Knows the tokens that a test has granted; any other is refused."""

    def concerns(self, headers: dict[str, str]) -> bool:
        return "authorization" in headers

    def authenticate(self, request: HttpRequest) -> Principal | None:
        stage.visit_from_thread("authenticate", request.method)
        grant = granted.get(request.headers["Authorization"].removeprefix("Bearer "))
        if grant is None:
            raise AuthenticationFailed("The token is not known.")
        if not grant.username:
            key, user = Principal.key_of(client=grant.client), None
        else:
            user = get_user_model().objects.filter(username=grant.username, is_active=True).first()
            if user is None:
                raise AuthenticationFailed("The token's user is gone.")
            key = Principal.key_of(user.pk, grant.client)
        return Principal(key, user, grant.client, scopes=grant.scopes, can_step_up=grant.can_step_up)


closed = MCPServer("auth-closed", authenticators=[Tokens()])
opened = MCPServer("auth-opened", authenticators=[Tokens(), public])
scoped = MCPServer("auth-scoped", authenticators=[Tokens()], scopes=["enter"])
unnamed = MCPServer("auth-unnamed")
logins = MCPServer("auth-logins", authenticators=[DjangoLogin, "mcp_django.auth.public"])
logins_only = MCPServer("auth-logins-only", authenticators=[DjangoLogin])
guarded = MCPServer("auth-guarded", authenticators=[Tokens(), public])
scoped_functions = MCPServer("auth-scoped-functions", authenticators=[Tokens()])
atomic = MCPServer("auth-atomic", authenticators=[Tokens(), public])


async def something() -> str:
    """A resource."""
    return "something"


def user_of(ctx: Context) -> Value:
    return {"value": [ctx.user.get_username(), ctx.request.user.get_username()]}


async def who(ctx: Context) -> Value:
    """Who calls, as async code sees it."""
    return user_of(ctx)


def who_in_thread(ctx: Context) -> Value:
    """Who calls, as sync code sees it."""
    return user_of(ctx)


async def linger(ctx: Context) -> Value:
    """Say something, and stop at a gate."""
    await ctx.report_progress(1)
    try:
        await stage.visit("lingering")
    finally:
        stage.record("left")
    await ctx.report_progress(2)
    return {"value": "stayed"}


for server in (closed, opened, scoped, unnamed, logins, logins_only):
    for each in (count, facts, linger, who, who_in_thread):
        server.tool()(each)
    server.resource("test://something")(something)


# What is offered to whom. "how" names the rule: each has a tool, a resource, a template and a prompt.


def is_staff(user: Any) -> bool:
    stage.visit_from_thread("asked is_staff", user.get_username())
    return bool(user.is_staff)


async def is_staff_async(user: Any) -> bool:
    await stage.visit("asked is_staff_async", user.get_username())
    return bool(await get_user_model().objects.filter(pk=user.pk, is_staff=True).aexists())


RULES: dict[str, dict[str, Any]] = {
    "permission": {"permission": "auth.view_group"},
    "function": {"permission": is_staff},
    "async_function": {"permission": is_staff_async},
    "scope": {"scopes": ["write"]},
    "both": {"permission": "auth.view_group", "scopes": ["write"]},
}


@guarded.tool()
async def anybody() -> str:
    """Is offered to everybody."""
    return "anybody"


@guarded.tool()
async def read(ctx: Context, uri: str) -> Value:
    """Reads a resource of this server, and goes without if there is none."""
    try:
        (content,) = await ctx.read_resource(uri)
    except ResourceNotFoundError:
        return {"value": "went without"}
    return {"value": str(content.content)}


for how, rule in RULES.items():

    @guarded.tool(name=f"by_{how}", **rule)
    async def _tool() -> str:
        """Is offered to some."""
        stage.record("a guarded tool ran")
        return "a tool"

    @guarded.tool(name=f"mirrored_by_{how}", **rule)
    async def _mirrored(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "") -> str:
        """Has an argument that is mirrored in a header."""
        return region

    @guarded.prompt(name=f"by_{how}", **rule)
    async def _prompt(subject: str = "") -> str:
        """Is offered to some."""
        return "a prompt"

    @guarded.resource(f"test://by_{how}", **rule)
    async def _resource() -> str:
        """Is offered to some."""
        return "a resource"

    @guarded.resource(f"test://by_{how}/{{name}}", **rule)
    async def _template(name: str) -> str:
        """Is offered to some."""
        return f"made for {name}"


@guarded.prompt()
async def for_anybody(subject: str = "") -> str:
    """Is offered to everybody."""
    return "a prompt"


@guarded.completion()
async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
    return ["a value that gives it away"]


@guarded.register
class Guarded(Handler):
    """Methods may be for some only."""

    @tool(permission="auth.view_group")
    async def by_method(self) -> str:
        """Is offered to some."""
        return "a tool"

    @prompt(name="by_method", permission="auth.view_group")
    def method_prompt(self, subject: str = "") -> str:
        """Is offered to some."""
        return "a prompt"

    @resource("test://by_method", permission="auth.view_group")
    def method_resource(self) -> str:
        """Is offered to some."""
        return "a resource"

    @resource("test://by_method/{name}", permission="auth.view_group")
    def method_template(self, name: str) -> str:
        """Is offered to some."""
        return f"made for {name}"


@scoped_functions.tool("scoped", permission=is_staff, scopes=["write"])
async def scoped_tool() -> str:
    """Is offered to some, who need a scope as well."""
    return "a tool"


# Tools in transactions


class Ending(Exception):
    """What nobody expects."""


def end(how: str) -> Any:
    """End a tool in one of several ways."""
    text: list[ContentBlock] = [TextContent(type="text", text="It did not work.")]
    match how:
        case "result":
            return CallToolResult(content=text, is_error=False)
        case "error result":
            return CallToolResult(content=text, is_error=True)
        case "question":
            form = ElicitRequestFormParams(message="Sure?", requested_schema={"type": "object", "properties": {}})
            return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)})
        case "tool error":
            raise ToolError("It did not work.")
        case "handler error":
            raise HandlerError("It did not work.")
    raise Ending


@atomic.tool(atomic=True)
def write(title: str, how: str) -> CallToolResult | InputRequiredResult:
    """Write a row, tell of it, and end."""
    Group.objects.create(name=title)
    transaction.on_commit(lambda: stage.record("committed", title))
    atomic.notify_tools_changed()
    stage.visit_from_thread("written", transaction.get_connection().in_atomic_block)
    result: CallToolResult | InputRequiredResult = end(how)
    return result


@atomic.tool(atomic=True)
def write_in_part(title: str) -> str:
    """Lose a part of the work, and keep the rest."""
    Group.objects.create(name=title)
    try:
        with transaction.atomic():
            Group.objects.create(name=f"{title} in part")
            raise Ending
    except Ending:
        return "kept the rest"


@atomic.tool()
def write_at_once(title: str, how: str) -> CallToolResult | InputRequiredResult:
    """The same without a transaction."""
    Group.objects.create(name=title)
    result: CallToolResult | InputRequiredResult = end(how)
    return result


@atomic.register
class Atomic(Handler):
    @tool(atomic=True)
    def write_by_method(self, title: str, how: str) -> CallToolResult | InputRequiredResult:
        """The same as a method."""
        return write(title, how)
