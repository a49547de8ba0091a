"""Registering on a server: what goes wrong is said at start-up, where it is written, and with what to do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from mcp_django import Context, Handler, MCPServer, mcp, tool
from mcp_django.auth import Authenticator
from mcp_django.server import servers
from mcp_django.testing import ClientError, connect

pytestmark = pytest.mark.usefixtures("no_servers")

HERE = __name__


class Unknown:
    """A class that no JSON Schema describes."""


@pytest.fixture
def server(no_servers: None) -> MCPServer:
    return MCPServer("shop")


def refused(register: Callable[..., Any], *args: Any) -> str:
    """What whoever registers wrongly is told."""
    with pytest.raises(ImproperlyConfigured) as caught:
        register(*args)
    return str(caught.value)


def search(query: str) -> list[str]:
    return []


class Search(Handler):
    @tool()
    def search(self, query: str) -> list[str]:
        return []


class TestNames:
    def test_two_tools_of_one_name_are_told_with_both_places(self, server: MCPServer) -> None:
        server.tool()(search)

        def other() -> None: ...

        text = refused(server.tool("search"), other)
        assert "'shop'" in text
        assert "'search'" in text
        assert f"{HERE}.search" in text
        assert f"{HERE}.TestNames" in text
        assert "Give one of them another name" in text

    def test_a_method_and_a_function_of_one_name_are_told(self, server: MCPServer) -> None:
        server.register(Search)
        text = refused(server.tool(), search)
        assert f"{HERE}.Search.search and {HERE}.search" in text

    def test_a_class_registered_twice_is_told(self, server: MCPServer) -> None:
        server.register(Search)
        assert "two tools 'search'" in refused(server.register, Search)

    def test_two_resources_of_one_uri_and_two_prompts_of_one_name_are_told(self, server: MCPServer) -> None:
        server.resource("shop://books")(lambda: "")
        assert "two resources 'shop://books'" in refused(server.resource("shop://books"), lambda: "")
        server.prompt("advice")(lambda: "")
        assert "two prompts 'advice'" in refused(server.prompt("advice"), lambda: "")

    def test_a_tool_a_prompt_and_a_resource_may_share_a_name(self, server: MCPServer) -> None:
        server.tool("books")(search)
        server.prompt("books")(search)
        server.resource("shop://books", name="books")(lambda: "")

    def test_two_servers_may_have_tools_of_one_name(self, server: MCPServer) -> None:
        server.tool()(search)
        MCPServer("another").tool()(search)

    def test_several_completions_stand_side_by_side(self, server: MCPServer) -> None:
        @server.completion()
        def complete(ref: Any, argument: Any, context: Any) -> None: ...

        def other() -> Any:
            @server.completion()
            def complete(ref: Any, argument: Any, context: Any) -> None: ...

        other()
        assert len(server.kernel._completions) == 2

    def test_a_refused_registration_leaves_the_first_one(self, server: MCPServer) -> None:
        server.tool()(search)
        refused(server.tool("search"), lambda: None)
        assert [tool.name for tool in server.kernel._tool_manager.list_tools()] == ["search"]


class TestServers:
    def test_two_of_one_name_are_told(self, server: MCPServer) -> None:
        assert "already a server named 'shop'" in refused(MCPServer, "shop")

    @pytest.mark.parametrize("name", ["", "x" * 101])
    def test_a_name_that_does_not_fit_the_column_is_told(self, name: str) -> None:
        assert "1 to 100 characters" in refused(MCPServer, name)

    def test_they_are_listed_by_name(self) -> None:
        made = [MCPServer(name) for name in ("b", "c", "a")]
        assert [server.name for server in servers()] == ["a", "b", "c"]
        assert set(made) == set(servers())

    def test_one_goes_by_its_name_unless_it_is_given_another_for_clients(self) -> None:
        assert MCPServer("plain").identity["name"] == "plain"
        assert MCPServer("internal", server_name="Shop").identity["name"] == "Shop"
        assert repr(MCPServer("shown")) == "<MCPServer 'shown'>"

    def test_the_default_one_goes_by_the_project(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert mcp.name == "default"
        monkeypatch.setattr(mcp, "server_name", None)
        assert mcp.identity["name"] == "demo_project"
        monkeypatch.setattr(mcp, "server_name", "library")
        assert mcp.identity["name"] == "library"

    def test_one_with_authenticators_of_its_own_does_not_ask_the_projects(self) -> None:
        own = Authenticator()
        assert MCPServer("own", authenticators=[own]).authenticators == (own,)
        assert MCPServer("none", authenticators=[]).authenticators == ()
        assert MCPServer("projects").authenticators == mcp.authenticators != ()


class TestDecorators:
    def test_give_back_the_function_that_they_were_given(self, server: MCPServer) -> None:
        assert server.tool()(search) is search
        assert server.prompt()(search) is search
        assert server.completion()(search) is search
        assert MCPServer("another").register(Search) is Search

    @pytest.mark.parametrize("kind", ["tool", "prompt", "resource", "completion"])
    def test_without_parentheses_are_told(self, server: MCPServer, kind: str) -> None:
        text = refused(getattr(server, kind), search)
        assert f"Write @{kind}(" in text
        assert "with parentheses" in text
        assert "search" in text

    @pytest.mark.parametrize("wrong", [Unknown, Unknown(), None, "search", functools.partial(search)])
    def test_on_what_is_no_function_are_told(self, server: MCPServer, wrong: Any) -> None:
        assert repr(wrong) in refused(server.tool(), wrong)

    def test_a_class_that_is_no_handler_is_told(self, server: MCPServer) -> None:
        assert "subclass of mcp_django.Handler" in refused(server.register, Unknown)


def underscore(_query: str) -> None: ...


def unknown_type(query: Unknown) -> None: ...


def unresolved(query: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def positional(query: str, /) -> None: ...


def no_return_type(query: str):  # type: ignore[no-untyped-def]
    return query


class NoSelf(Handler):
    @tool()
    def without_self() -> None: ...  # type: ignore[misc]


class MisspeltOption(Handler):
    @tool(tittle="Search")
    def misspelt(self) -> None: ...


class NeedsArguments(Handler):
    def __init__(self, shelf: str) -> None: ...

    @tool()
    def search(self, query: str) -> None: ...


WRONG: dict[str, tuple[Callable[[MCPServer], Any], str]] = {
    "a parameter with an underscore": (lambda server: server.tool()(underscore), "underscore"),
    "a type without a schema": (lambda server: server.tool()(unknown_type), "unknown_type"),
    "a type that does not exist": (lambda server: server.tool()(unresolved), "unresolved"),
    "a positional parameter": (lambda server: server.tool()(positional), "positional"),
    "a prompt with a type without a schema": (lambda server: server.prompt()(unknown_type), "unknown_type"),
    "structured output of no type": (
        lambda server: server.tool(structured_output=True)(no_return_type),
        "no_return_type",
    ),
    "a template with other variables": (lambda server: server.resource("shop://{isbn}")(search), "search"),
    "a URI without variables and a parameter": (lambda server: server.resource("shop://books")(search), "search"),
    "a URI that is not closed": (lambda server: server.resource("shop://{query")(search), "search"),
    "a completion of one parameter": (lambda server: server.completion()(search), "search"),
    "a method without self": (lambda server: server.register(NoSelf), "NoSelf.without_self"),
    "a misspelt option": (lambda server: server.register(MisspeltOption), "MisspeltOption.misspelt"),
    "a handler that needs arguments": (lambda server: server.register(NeedsArguments), "NeedsArguments"),
}


@pytest.mark.parametrize(("register", "place"), WRONG.values(), ids=WRONG)
def test_a_registration_that_cannot_work_is_told_before_the_first_request_and_with_its_place(
    server: MCPServer, register: Callable[[MCPServer], Any], place: str
) -> None:
    def start() -> None:
        register(server)
        server.kernel  # noqa: B018

    assert f"{HERE}.{place}" in refused(start)


class Plain:
    def __call__(self, who: str) -> bool:
        return True


def one_argument(who: str) -> bool:
    return True


async def one_argument_async(*, who: str) -> bool:
    return True


class HiddenByFlag(Handler):
    @tool(enabled=True)
    def search(self, query: str) -> None: ...


NOT_TO_BE_ASKED = [True, False, "shop.is_open", 0, one_argument, one_argument_async, Plain(), Search.search]


class TestEnabled:
    @pytest.mark.parametrize("wrong", NOT_TO_BE_ASKED)
    def test_what_cannot_be_asked_without_arguments_is_told_where_it_is_registered(
        self, server: MCPServer, wrong: Any
    ) -> None:
        for register in (
            server.tool(enabled=wrong),
            server.prompt(enabled=wrong),
            server.resource("shop://books/{query}", enabled=wrong),
        ):
            text = refused(register, search)
            assert f"{HERE}.search" in text
            assert "a function without arguments" in text
            assert repr(wrong) in text

    def test_a_mark_that_cannot_be_asked_is_told_when_the_class_is_registered(self, server: MCPServer) -> None:
        text = refused(server.register, HiddenByFlag)
        assert f"{HERE}.HiddenByFlag.search" in text
        assert "whether the tool is offered" in text

    def test_a_refused_one_is_not_registered(self, server: MCPServer) -> None:
        refused(server.tool(enabled=True), search)  # type: ignore[arg-type]
        server.tool()(search)
        assert [tool.name for tool in server.kernel._tool_manager.list_tools()] == ["search"]

    @pytest.mark.anyio
    @pytest.mark.usefixtures("in_memory")
    @pytest.mark.parametrize("answer", [None, 1, "yes", []])
    async def test_an_answer_that_is_no_bool_is_an_error_that_is_logged(
        self, server: MCPServer, answer: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.tool(enabled=lambda: answer)(search)
        async with connect(server) as client:
            with pytest.raises(ClientError) as caught:
                await client.request("tools/list")
        assert caught.value.code == -32603
        assert f"returned {answer!r}, which is no bool" in caplog.text

    @pytest.mark.anyio
    @pytest.mark.usefixtures("in_memory")
    async def test_whatever_needs_no_arguments_is_asked(self, server: MCPServer) -> None:
        class Flag:
            def __init__(self, value: bool) -> None:
                self.value = value

            def is_set(self) -> bool:
                return self.value

            async def __call__(self) -> bool:
                return self.value

        for value in (True, False):
            server.tool(f"method_{value}", enabled=Flag(value).is_set)(search)
            server.tool(f"object_{value}", enabled=Flag(value))(search)
            server.tool(f"partial_{value}", enabled=functools.partial(Flag.is_set, Flag(value)))(search)
        async with connect(server) as client:
            tools = (await client.request("tools/list"))["tools"]
        assert [tool["name"] for tool in tools] == ["method_True", "object_True", "partial_True"]


def test_a_server_that_could_not_be_built_is_not_half_built(server: MCPServer) -> None:
    server.tool()(search)
    server.tool()(unknown_type)
    for _ in range(2):
        with pytest.raises(Exception, match="Unknown"):
            server.kernel  # noqa: B018


def test_a_registration_after_the_first_request_is_told_with_its_place_and_where_to_register(
    server: MCPServer,
) -> None:
    server.tool()(search)
    server.kernel  # noqa: B018
    for register, argument in ((server.tool("other"), search), (server.register, Search)):
        text = refused(register, argument)
        assert HERE in text
        assert "after its first request" in text
        assert "mcp.py" in text


def test_a_server_is_built_once(server: MCPServer) -> None:
    server.tool()(search)
    assert server.kernel is server.kernel


@pytest.mark.anyio
@pytest.mark.usefixtures("in_memory")
class TestOptions:
    async def test_reach_the_client(self, server: MCPServer) -> None:
        @server.tool("find", title="Find", description="Finds.", meta={"shop/x": 1})
        def search(query: str) -> list[str]:
            """Not shown."""
            return [query]

        @server.resource("shop://books/{isbn}", name="book", mime_type="application/json")
        def book(isbn: str) -> str:
            """One book."""
            return isbn

        @server.prompt(title="Advice")
        def advise(mood: str, ctx: Context) -> str:
            """Asks for advice."""
            return mood

        async with connect(server) as client:
            (tool,) = (await client.request("tools/list"))["tools"]
            (template,) = (await client.request("resources/templates/list"))["resourceTemplates"]
            (prompt,) = (await client.request("prompts/list"))["prompts"]
            assert (await client.request("resources/list"))["resources"] == []
        assert (tool["name"], tool["title"], tool["description"]) == ("find", "Find", "Finds.")
        assert tool["_meta"] == {"shop/x": 1}
        assert (template["name"], template["uriTemplate"]) == ("book", "shop://books/{isbn}")
        assert (template["mimeType"], template["description"]) == ("application/json", "One book.")
        assert (prompt["name"], prompt["title"], prompt["description"]) == ("advise", "Advice", "Asks for advice.")
        assert prompt["arguments"] == [{"name": "mood", "required": True}]

    async def test_an_input_schema_is_shown_in_place_of_the_derived_one(self, server: MCPServer) -> None:
        schema = {"type": "object", "properties": {"query": {"type": "string", "pattern": "^[a-z]+$"}}}
        server.tool(input_schema=schema)(search)
        async with connect(server) as client:
            (tool,) = (await client.request("tools/list"))["tools"]
            assert tool["inputSchema"] == schema
            assert (await client.call_tool("search", {"query": ["no text"]}))["isError"] is True
            assert not (await client.call_tool("search", {"query": "text"})).get("isError")
