"""`Handle` classes: what they may say, what a project that uses them wrongly is told, and how handlers use them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings
from pydantic import Field, TypeAdapter

from mcp_django import Handle, MCPServer
from mcp_django.exceptions import HandleNotFound, HandlerError
from mcp_django.testing import connect
from tests.unit.test_handle_stores import StoreWithoutHandles
from tests.unit.test_orm_store import FEW_APPS

HERE = __name__


class ReadingList(Handle):
    """A reading list;
    start makes one.
    """


class Longer(ReadingList):
    kind = "long_list"
    ttl = timedelta(days=90)


class Cart(Handle):
    """A cart."""


TEXT = "reading_list-" + "a1B2" * 6


@pytest.fixture
def server(no_servers: None) -> MCPServer:
    return MCPServer("shop")


def refused(define: Callable[[], Any]) -> str:
    """What whoever defines or registers wrongly is told."""
    with pytest.raises(ImproperlyConfigured) as caught:
        define()
    return str(caught.value)


def handle_class(name: str, **attributes: Any) -> type[Handle]:
    return type(name, (Handle,), {"__qualname__": f"<locals>.{name}", "__module__": HERE, **attributes})


class TestClasses:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("Cart", "cart"),
            ("ReadingList", "reading_list"),
            ("HTTPLog", "http_log"),
            ("OAuth2State", "o_auth2_state"),
            ("Top10", "top10"),
        ],
    )
    def test_the_kind_is_the_name_in_lower_case(self, name: str, kind: str) -> None:
        assert handle_class(name).kind == kind

    def test_a_subclass_of_a_kind_is_a_kind_of_its_own(self) -> None:
        assert (ReadingList.kind, Longer.kind) == ("reading_list", "long_list")
        with pytest.raises(ValueError, match="This is no long_list"):
            Longer(TEXT)

    @pytest.mark.parametrize("kind", ["", "Cart", "cart-2", "2cart", "c" * 51, "kört"])
    def test_a_kind_that_does_not_fit_into_a_text_is_told(self, kind: str) -> None:
        text = refused(lambda: handle_class("Cart", kind=kind))
        assert f"{HERE}.<locals>.Cart" in text
        assert repr(kind) in text

    @pytest.mark.parametrize("ttl", [0, 3600, timedelta(0), timedelta(days=-1), "1h"])
    def test_a_lifetime_that_is_none_is_told(self, ttl: Any) -> None:
        assert "ttl must be a timedelta longer than zero" in refused(lambda: handle_class("Cart", ttl=ttl))

    def test_the_base_is_no_kind(self, server: MCPServer) -> None:
        with pytest.raises(TypeError, match="is to be subclassed"):
            Handle(TEXT)

        @server.tool()
        def show(handle: Handle) -> str:
            return ""

        assert "is to be subclassed" in refused(lambda: server.kernel)


class TestObjects:
    def test_one_is_its_text_and_hides_it_where_it_is_only_looked_at(self) -> None:
        handle = ReadingList(TEXT)
        assert str(handle) == f"{handle}" == TEXT
        assert TEXT[-8:] not in repr(handle)
        assert repr(handle).startswith("<ReadingList ")

    def test_two_of_one_text_and_class_are_equal(self) -> None:
        assert ReadingList(TEXT) == ReadingList(TEXT)
        assert len({ReadingList(TEXT), ReadingList(TEXT), ReadingList(TEXT + "x")}) == 2
        assert ReadingList(TEXT) != TEXT

    @pytest.mark.parametrize("name", ["create", "end"])
    def test_every_method_has_a_twin_with_the_same_parameters(self, name: str) -> None:
        sync, twin = getattr(ReadingList, name), getattr(ReadingList, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        assert not inspect.iscoroutinefunction(sync)
        assert inspect.signature(sync).parameters == inspect.signature(twin).parameters

    @pytest.mark.anyio
    async def test_where_there_is_no_call_there_is_no_caller(self) -> None:
        for use in (ReadingList.acreate(), ReadingList(TEXT).aend(), ReadingList(TEXT).state.aall()):
            with pytest.raises(RuntimeError, match="in handlers and hooks only"):
                await use

    @pytest.mark.anyio
    async def test_a_sync_method_in_async_code_names_its_async_twin(self) -> None:
        with pytest.raises(SynchronousOnlyOperation, match=r"ReadingList.create\(\).*await ReadingList.acreate\("):
            ReadingList.create()
        with pytest.raises(SynchronousOnlyOperation, match=r"await handle.aend\("):
            ReadingList(TEXT).end()
        with pytest.raises(SynchronousOnlyOperation, match=r"await state.aget\("):
            ReadingList(TEXT).state.get("key")

    def test_pydantic_takes_texts_and_objects_and_gives_texts(self) -> None:
        adapter = TypeAdapter(dict[str, ReadingList])
        found = adapter.validate_python({"a": TEXT, "b": ReadingList(TEXT)})
        assert found == {"a": ReadingList(TEXT), "b": ReadingList(TEXT)}
        assert adapter.dump_python(found) == adapter.dump_python(found, mode="json") == {"a": TEXT, "b": TEXT}
        with pytest.raises(ValueError, match="This is no reading_list"):
            adapter.validate_python({"a": Cart("cart-" + "a" * 22)})

    def test_the_error_for_the_model_says_what_to_do_and_is_one_for_handlers(self) -> None:
        assert issubclass(HandleNotFound, HandlerError)
        assert "Get another one" in str(HandleNotFound())
        assert str(HandleNotFound("cart", "A cart.")).startswith("There is no such cart")
        assert str(HandleNotFound("cart", "A cart.")).endswith("A cart.")


def schema_of(server: MCPServer, name: str) -> Any:
    tool = server.kernel._tool_manager.get_tool(name)
    assert tool is not None
    return tool.parameters["properties"], (tool.output_schema or {}).get("properties")


class TestRegistration:
    def test_the_description_is_the_docstring_unless_the_tool_has_a_better_one(self, server: MCPServer) -> None:
        @server.tool()
        def merge(
            source: ReadingList, target: Annotated[ReadingList, Field(description="Where they go.")]
        ) -> Annotated[ReadingList, Field(description="The target.")]:
            return target

        taken, given = schema_of(server, "merge")
        assert taken["source"]["description"] == "A reading list;\nstart makes one."
        assert taken["target"]["description"] == "Where they go."
        assert given == {"result": {"title": "Result", "type": "string", "description": "The target."}}

    def test_a_class_without_a_docstring_is_told_by_its_kind(self, server: MCPServer) -> None:
        @server.tool()
        def clear(items: Longer) -> None: ...

        assert schema_of(server, "clear")[0]["items"]["description"] == "A long_list, as a tool returned it."

    def test_two_classes_of_one_kind_are_told_with_both_places_if_one_server_knows_both(
        self, server: MCPServer
    ) -> None:
        another = handle_class("Cart")
        other = MCPServer("other")

        def clear(items: list[Cart] | None) -> None: ...

        def start() -> Any: ...

        start.__annotations__["return"] = another
        server.tool()(clear)
        other.tool()(start)
        for each in (server, other):
            assert schema_of(each, "start" if each is other else "clear")
        third = MCPServer("third")
        third.tool()(clear)
        third.tool()(start)
        text = refused(lambda: third.kernel)
        assert f"{HERE}.<locals>.Cart and {HERE}.Cart are both handles of the kind 'cart'" in text

    def test_a_session_store_that_keeps_no_handles_is_told_when_the_server_is_built(self, server: MCPServer) -> None:
        @server.tool()
        def clear(items: ReadingList) -> None: ...

        path = f"{StoreWithoutHandles.__module__}.{StoreWithoutHandles.__name__}"
        with override_settings(MCP_DJANGO_SESSION_STORE=path):
            text = refused(lambda: server.kernel)
        assert "clear cannot be a tool of server 'shop'" in text
        assert "keeps no handles" in text


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite")
@pytest.mark.anyio
class TestTransactions:
    async def test_what_would_wait_for_the_callers_own_lock_is_refused_at_once(
        self, server: MCPServer, orm_store: Any
    ) -> None:
        refusals: list[str] = []

        def refuse(fn: Callable[[], Any]) -> None:
            with pytest.raises(TransactionManagementError) as caught:
                fn()
            refusals.append(str(caught.value))

        @server.tool()
        def start() -> ReadingList:
            made = ReadingList.create({"n": 1})
            with transaction.atomic():
                for fn in (ReadingList.create, made.end, lambda: made.state.set("n", 2)):
                    refuse(fn)
                assert made.state.get("n") == 1
            return made

        async with connect(server) as client:
            assert not (await client.call_tool("start")).get("isError")
        assert [text.partition("(")[0] for text in refusals] == ["ReadingList.create", "handle.end", "state.set"]
        assert all("inside transaction.atomic()" in text for text in refusals)
