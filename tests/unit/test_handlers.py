"""Handler classes: what is registered of them, and how their instances live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from mcp_django import Context, Handler, MCPServer, RestoreMarker, prompt, resource, tool
from mcp_django.handlers import Registration, registrations_of
from mcp_django.testing import ClientError, connect

Registrations = list[tuple[str, str]]


def found(handler: type[Handler]) -> Registrations:
    return [(registration.kind, registration.key) for registration in registrations_of(handler)]


class Shelf(Handler):
    @tool(title="Put")
    def put(self, isbn: str) -> None: ...

    @resource("shelf://mine", mime_type="text/plain")
    async def mine(self) -> str:
        return ""

    @prompt("advice", title="Advice")
    def advise(self) -> str:
        return ""

    def helper(self) -> None: ...


class TestMarks:
    def test_marked_methods_are_found_in_the_order_they_are_written(self) -> None:
        assert found(Shelf) == [("tool", "put"), ("resource", "shelf://mine"), ("prompt", "advice")]

    def test_a_registration_keeps_the_decorators_arguments_and_where_it_was_written(self) -> None:
        first, second, third = registrations_of(Shelf)
        assert first == Registration("tool", Shelf.put, {"name": None, "title": "Put"}, Shelf)
        assert second.options == {"uri": "shelf://mine", "mime_type": "text/plain"}
        assert third.options == {"name": "advice", "title": "Advice"}
        assert first.place == f"{__name__}.Shelf.put"

    def test_a_marked_method_is_an_ordinary_method(self) -> None:
        assert Shelf().put("978") is None
        assert Shelf.put.__name__ == "put"

    def test_one_method_may_be_marked_twice(self) -> None:
        class Twice(Handler):
            @tool("list_books")
            @resource("books://all")
            def books(self) -> str:
                return ""

        assert sorted(found(Twice)) == [("resource", "books://all"), ("tool", "list_books")]

    def test_inherited_methods_come_along(self) -> None:
        class Better(Shelf):
            @tool()
            def take(self, isbn: str) -> None: ...

        assert found(Better) == [*found(Shelf), ("tool", "take")]
        assert {registration.handler for registration in registrations_of(Better)} == {Better}

    def test_a_marked_override_takes_the_place_of_the_inherited_method(self) -> None:
        class Better(Shelf):
            @tool(title="Put better")
            def put(self, isbn: str) -> None: ...

        assert found(Better) == found(Shelf)
        (first, *_others) = registrations_of(Better)
        assert first.fn is Better.put
        assert first.options["title"] == "Put better"

    def test_an_override_without_a_mark_takes_the_method_back(self) -> None:
        class Less(Shelf):
            def put(self, isbn: str) -> None: ...

            mine = None  # type: ignore[assignment]

        assert found(Less) == [("prompt", "advice")]

    def test_methods_of_a_mixin_that_is_no_handler_come_along(self) -> None:
        class Mixin:
            @tool()
            def mixed(self) -> None: ...

        class Mixed(Mixin, Handler): ...

        assert found(Mixed) == [("tool", "mixed")]


class TestMistakes:
    @pytest.mark.parametrize("mark", [tool, prompt, resource])
    def test_a_decorator_without_parentheses_says_so(self, mark: Callable[[Any], Any]) -> None:
        with pytest.raises(ImproperlyConfigured, match=rf"@{mark.__name__}\(\.\.\.\) with parentheses") as caught:

            class Wrong(Handler):
                @mark
                def put(self) -> None: ...

        assert "Wrong.put" in str(caught.value)

    @pytest.mark.parametrize("wrong", [int, "text", staticmethod(len), property(len)])
    def test_only_methods_can_be_marked(self, wrong: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="marks methods of a Handler class"):
            tool()(wrong)

    def test_a_class_without_marked_methods_is_named_with_what_it_lacks(self) -> None:
        class Empty(Handler):
            def put(self) -> None: ...

        with pytest.raises(ImproperlyConfigured, match=r"Empty has no method marked with @tool\(\)"):
            list(registrations_of(Empty))

    @pytest.mark.parametrize("wrong", [Shelf(), dict, "Shelf", None, Shelf.put])
    def test_only_handler_classes_can_be_registered(self, wrong: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"subclass of mcp_django\.Handler"):
            list(registrations_of(wrong))

    @pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
    def test_a_mark_below_another_decorator_is_not_passed_over_in_silence(self, kind: Any) -> None:
        class Wrong(Handler):
            @tool()
            def right(self) -> None: ...

            @kind  # type: ignore[untyped-decorator]
            @tool()
            def wrong(self) -> None: ...

        with pytest.raises(ImproperlyConfigured, match="wrong"):
            list(registrations_of(Wrong))


def test_a_markers_repr_does_not_show_the_session_id() -> None:
    """It is what ends up in logs and error reports."""
    marker = RestoreMarker(
        session_id="the-secret-id",
        reason="restart",
        previous_process=None,
        idle_for=timedelta(minutes=5),
        restore_count=1,
        process_restore_count=1,
        initialized_at=None,
    )
    assert "the-secret-id" not in repr(marker)
    assert marker.session_id == "the-secret-id"


class Notes:
    """What the instances of a handler class noted, in order."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Any]] = []
        self.instances: list[Handler] = []
        self.failures: list[Exception] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _marker in self.notes]

    def note(self, name: str, marker: RestoreMarker | None) -> None:
        self.notes.append((name, marker))
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def server(notes: Notes, no_servers: None, in_memory: None) -> MCPServer:
    """A server with one handler class."""
    server = MCPServer("handlers")

    @server.register
    class Cart(Handler):
        def __init__(self) -> None:
            self.items: list[str] = []
            notes.instances.append(self)

        def on_initialize(self, params: Any, marker: RestoreMarker | None) -> None:
            assert threading.current_thread().name.startswith("mcp-django-call")
            assert self.session.client_params is params
            notes.note(f"initialize {params.client_info.name}", marker)

        async def on_initialized(self, marker: RestoreMarker | None) -> None:
            notes.note("initialized", marker)

        async def on_restore(self, marker: RestoreMarker) -> None:
            notes.note("restore", marker)

        @tool()
        def add(self, item: str, count: int = 1) -> list[str]:
            """Add an item."""
            self.items += [item] * count
            return self.items

        @tool()
        async def who(self, ctx: Context) -> dict[str, bool]:
            return {"same": ctx.call.session is self.session, "restored": ctx.restored is not None}

        @resource("cart://items")
        def read(self) -> str:
            return ",".join(self.items)

        @resource("cart://items/{number}")
        async def read_one(self, number: int) -> str:
            return self.items[number]

        @prompt()
        def advise(self, mood: str) -> str:
            return f"{mood}: {self.items}"

    return server


@pytest.mark.anyio
class TestInstances:
    async def test_one_serves_every_call_of_its_session(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server) as client:
            await client.call_tool("add", {"item": "a"})
            result = await client.call_tool("add", {"item": "b", "count": 2})
            assert result["structuredContent"] == {"result": ["a", "b", "b"]}
            read = await client.request("resources/read", {"uri": "cart://items"})
            assert read["contents"][0]["text"] == "a,b,b"
            read = await client.request("resources/read", {"uri": "cart://items/1"})
            assert read["contents"][0]["text"] == "b"
            prompted = await client.request("prompts/get", {"name": "advise", "arguments": {"mood": "glad"}})
            assert prompted["messages"][0]["content"]["text"] == "glad: ['a', 'b', 'b']"
        assert len(notes.instances) == 1

    async def test_each_session_has_its_own(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server) as one, connect(server) as other:
            await one.call_tool("add", {"item": "a"})
            result = await other.call_tool("add", {"item": "b"})
            assert result["structuredContent"] == {"result": ["b"]}
        assert len(notes.instances) == 2

    async def test_a_method_shows_its_parameters_without_self_and_context(self, server: MCPServer) -> None:
        async with connect(server) as client:
            tools = {tool["name"]: tool for tool in (await client.request("tools/list"))["tools"]}
        assert set(tools["add"]["inputSchema"]["properties"]) == {"item", "count"}
        assert tools["add"]["inputSchema"]["required"] == ["item"]
        assert tools["add"]["description"] == "Add an item."
        assert tools["who"]["inputSchema"]["properties"] == {}

    async def test_a_method_gets_the_context_of_its_own_session(self, server: MCPServer) -> None:
        async with connect(server) as client:
            result = await client.call_tool("who")
            assert result["structuredContent"] == {"same": True, "restored": False}


@pytest.mark.anyio
class TestHooks:
    async def test_the_handshake_is_told_without_a_marker(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server):
            assert notes.notes == [("initialize mcp_django.testing", None), ("initialized", None)]

    async def test_a_second_initialized_is_not_told(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server) as client:
            await client.notify("notifications/initialized")
        assert notes.names.count("initialized") == 1

    async def test_a_restore_replays_the_handshake_to_a_new_instance_with_the_marker(
        self, server: MCPServer, notes: Notes
    ) -> None:
        async with connect(server) as client:
            await client.call_tool("add", {"item": "a"})
            notes.notes.clear()
            client.restart()
            result = await client.call_tool("who")
            assert result["structuredContent"] == {"same": True, "restored": True}
            assert notes.names == ["initialize mcp_django.testing", "initialized", "restore"]
            marker = notes.notes[0][1]
            assert all(given is marker for _name, given in notes.notes)
            assert marker.session_id == client.session_id
            assert (marker.reason, marker.restore_count, marker.process_restore_count) == ("evicted", 1, 1)
            assert marker.initialized_at is not None
            assert timedelta(0) <= marker.idle_for < timedelta(minutes=5)
            result = await client.call_tool("add", {"item": "b"})
            assert result["structuredContent"] == {"result": ["b"]}
        assert len(notes.instances) == 2

    async def test_restores_are_counted(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server) as client:
            for count in (1, 2, 3):
                client.restart()
                await client.request("ping")
                marker = notes.notes[-1][1]
                assert (marker.restore_count, marker.process_restore_count) == (count, count)

    async def test_an_initialized_that_never_came_is_not_replayed(self, server: MCPServer, notes: Notes) -> None:
        async with connect(server) as client:
            await client.end()
            client.session_id = client.protocol_version = None
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
            await client.request("initialize", params)
            notes.notes.clear()
            client.restart()
            await client.request("ping")
            assert notes.names == ["initialize x", "restore"]
            assert notes.notes[-1][1].initialized_at is None

    async def test_one_that_raises_fails_the_request_and_the_next_request_tries_again(
        self, server: MCPServer, notes: Notes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connect(server) as client:
            client.restart()
            notes.failures.append(LookupError("a secret of the server"))
            with pytest.raises(ClientError) as caught:
                await client.request("ping")
            assert caught.value.status == 200
            assert "a secret of the server" not in str(caught.value)
            assert "a secret of the server" in caplog.text
            assert await client.request("ping") == {}
            assert len(notes.instances) == 3

    async def test_one_that_raises_in_the_handshake_leaves_no_session(self, server: MCPServer, notes: Notes) -> None:
        notes.failures.append(LookupError())
        with pytest.raises(ClientError) as caught:
            async with connect(server):
                raise AssertionError("a session was opened")
        assert caught.value.code == -32603

    async def test_a_handler_without_hooks_needs_none(self, no_servers: None, in_memory: None) -> None:
        server = MCPServer("hookless")
        server.register(Shelf)
        async with connect(server) as client:
            client.restart()
            assert (await client.call_tool("put", {"isbn": "978"})).get("isError") is not True
