"""Long lists leave in pages."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.client import Client, Session, case
from tests.protocol.processes import Processes
from tests.protocol.servers import LENGTH

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LISTS = [
    ("tools/list", "tools", "name", "tool_{}"),
    ("prompts/list", "prompts", "name", "prompt_{}"),
    ("resources/list", "resources", "uri", "test://resource/{}"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate", "test://template/{}/{{rest}}"),
]


@pytest.fixture(autouse=True)
def small_pages(settings: Settings) -> None:
    settings.MCP_DJANGO_PAGE_SIZE = 3


@pytest.fixture
def client(client: Client) -> Client:
    client.path = "/long/mcp"
    return client


async def pages(session: Session, method: str, key: str) -> list[list[Any]]:
    """All pages of a list, by following the cursor."""
    found: list[list[Any]] = []
    params: dict[str, Any] = {}
    while len(found) <= LENGTH:
        result = (await session.request(method, params)).result
        found.append(result[key])
        if "nextCursor" not in result:
            return found
        assert isinstance(result["nextCursor"], str)
        params = {"cursor": result["nextCursor"]}
    raise AssertionError("The cursor goes round in circles.")


@pytest.mark.parametrize(("method", "key", "name", "form"), LISTS, ids=[entry[0] for entry in LISTS])
async def test_walking_the_pages_shows_everything_once_and_in_order(
    client: Client, method: str, key: str, name: str, form: str
) -> None:
    session = await client.open()
    found = await pages(session, method, key)
    assert [len(page) for page in found] == [3, 3, 1]
    assert [item[name] for page in found for item in page] == [form.format(number) for number in range(LENGTH)]


@pytest.mark.parametrize("size", [1, LENGTH, LENGTH + 1])
async def test_a_full_last_page_has_no_cursor(client: Client, settings: Settings, size: int) -> None:
    settings.MCP_DJANGO_PAGE_SIZE = size
    session = await client.open()
    found = await pages(session, "tools/list", "tools")
    assert [len(page) for page in found] == ([1] * LENGTH if size == 1 else [LENGTH])


async def test_a_cursor_goes_on_in_another_process(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    cursor = (await session.request("tools/list")).result["nextCursor"]
    await server_processes.another()
    result = (await session.request("tools/list", {"cursor": cursor})).result
    assert [tool["name"] for tool in result["tools"]] == ["tool_3", "tool_4", "tool_5"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


FOREIGN_CURSORS = [
    "",
    "nonsense",
    "3",
    "ünïcode",
    "=" * 10,
    "x" * 100_000,
    encoded(""),
    encoded("3"),
    encoded("at:"),
    encoded("at:-1"),
    encoded("at:1.5"),
    encoded("at:²"),
    encoded("at:7"),
    encoded("at:999999999"),
    encoded("at:" + "9" * 5000),
]


async def test_a_cursor_that_is_none_of_ours_is_invalid_params(client: Client) -> None:
    session = await client.open()
    for cursor in FOREIGN_CURSORS:
        with case(cursor):
            for method, _key, _name, _form in LISTS:
                error = (await session.request(method, {"cursor": cursor})).error
                assert error["code"] == -32602
                assert "cursor" in error["message"]
