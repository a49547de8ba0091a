"""/everything/mcp offers what benchmarks, acceptance tests and the conformance suite count on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from demo_project.everything import conformance
from demo_project.everything.server import everything


def tools() -> dict[str, Any]:
    return {tool.name: tool for tool in asyncio.run(everything.kernel.list_tools())}


@pytest.mark.parametrize(
    ("name", "arguments", "results"),
    [
        ("add", {"a", "b"}, {"result"}),
        (
            "session_info",
            set(),
            {"session_id", "pid", "restored", "restore_count", "protocol_version", "client_name", "user"},
        ),
        ("count", set(), {"value"}),
        ("slow_progress", {"steps", "seconds"}, {"steps"}),
        ("ask_name", set(), {"action", "name"}),
        ("orm_roundtrip", set(), {"rows"}),
    ],
)
def test_a_tool_of_the_contract_takes_and_returns_exactly_this(
    name: str, arguments: set[str], results: set[str]
) -> None:
    tool = tools()[name]
    assert set(tool.input_schema["properties"]) == arguments
    assert set(tool.output_schema["properties"]) == results


def test_the_first_tool_can_be_called_without_arguments() -> None:
    first = next(iter(tools().values()))
    assert first.name == "test_simple_text"
    assert not first.input_schema["properties"]


def test_everything_is_described() -> None:
    kernel = everything.kernel

    async def listed() -> list[Any]:
        return [*await kernel.list_tools(), *await kernel.list_prompts(), *await kernel.list_resources()]

    items = asyncio.run(listed())
    assert items
    assert [item.name for item in items if not item.description] == []


def test_a_schema_that_no_signature_can_say_reaches_the_list_untouched() -> None:
    assert tools()["json_schema_2020_12_tool"].input_schema == conformance.JSON_SCHEMA
