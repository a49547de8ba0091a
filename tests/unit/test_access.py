"""Rules of access: those that cannot be followed are refused where they are written."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from mcp_django import Handler, MCPServer, tool
from mcp_django.access import Access, access_of

numbers = itertools.count()


def of_no_use(kind: str, options: dict[str, Any]) -> str:
    """What is said of a registration with these options."""
    server = MCPServer(f"permissions {next(numbers)}")
    decorators: dict[str, Any] = {
        "tool": server.tool,
        "resource": functools.partial(server.resource, "test://x"),
        "prompt": server.prompt,
    }
    decorate = decorators[kind](**options)

    def of_no_use() -> None: ...

    with pytest.raises(ImproperlyConfigured) as caught:
        decorate(of_no_use)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["tool", "resource", "prompt"])
@pytest.mark.parametrize(
    "permission", ["", "view_report", "library.", ".view", "a.b.c", "library.view report", 7, True, lambda: True]
)
def test_a_permission_that_is_none_is_refused_where_it_is_written(kind: str, permission: Any) -> None:
    text = of_no_use(kind, {"permission": permission})
    assert "of_no_use" in text
    assert "permission= takes a Django permission" in text
    assert repr(permission) in text


@pytest.mark.parametrize("kind", ["tool", "resource", "prompt"])
@pytest.mark.parametrize("scopes", ["read", ["read write"], [""], [7], ['with"quote'], ["é"]])
def test_scopes_that_are_none_are_refused_where_they_are_written(kind: str, scopes: Any) -> None:
    text = of_no_use(kind, {"scopes": scopes})
    assert "of_no_use" in text
    assert "scopes= takes a list of scopes without spaces" in text
    assert repr(scopes) in text


def test_scopes_of_a_server_are_looked_at_too() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Server 'wrong scopes': scopes= takes a list"):
        MCPServer("wrong scopes", scopes="read")


@pytest.mark.parametrize(
    ("atomic", "said"),
    [
        (None, "takes True or a database's alias"),
        (1, "takes True or a database's alias"),
        ("no_such", "names the database 'no_such', DATABASES has default"),
        ("", "names the database ''"),
    ],
)
def test_what_no_transaction_can_be_made_of_is_refused_where_it_is_written(atomic: Any, said: str) -> None:
    text = of_no_use("tool", {"atomic": atomic})
    assert "of_no_use" in text
    assert said in text


def test_an_async_tool_cannot_be_atomic_and_is_told_what_to_do() -> None:
    server = MCPServer("async atomic")
    with pytest.raises(ImproperlyConfigured, match=r"(?s)tool: atomic= is for sync functions.*sync_to_async"):

        @server.tool(atomic=True)
        async def _tool() -> None: ...


def test_methods_of_handlers_are_looked_at_when_their_class_is_registered() -> None:
    server = MCPServer("wrong methods")
    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.method: permission= takes"):

        @server.register
        class Wrong(Handler):
            @tool(permission="nothing")
            def method(self) -> None: ...


def test_a_rule_is_made_of_what_is_said_and_none_of_nothing() -> None:
    assert access_of("place", None, ()) is None
    assert access_of("place", "auth.view_user", ()) == Access("auth.view_user", frozenset())
    assert access_of("place", None, ["b", "a"]) == Access(None, frozenset({"a", "b"}))
    # One rule for all that say the same, so that it is asked once for a list.
    assert hash(access_of("place", "auth.view_user", ["a"])) == hash(access_of("other", "auth.view_user", {"a"}))
