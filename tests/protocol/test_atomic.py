"""Tools in a transaction: what fails leaves no rows behind, and tells nobody of any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.db import connections
from mcp_types import CallToolResult

from demo_project.database import from_url
from mcp_django import MCPServer
from mcp_django.asgi import Application
from mcp_django.bindings import in_transaction
from mcp_django.models import Topic
from tests.protocol.client import Client, Session, case
from tests.protocol.stage import Stage
from tests.protocol.stateless import ASKABLE, Stateless

pytestmark = pytest.mark.anyio

TOOLS = ["write", "write_by_method"]


@pytest.fixture(autouse=True)
def groups(project: None) -> Iterator[None]:
    yield
    Group.objects.all().delete()


@pytest.fixture
async def session(application: Application) -> Session:
    return await Client(application, "/atomic/mcp").open()


async def names() -> list[str]:
    return [name async for name in Group.objects.order_by("name").values_list("name", flat=True)]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("how", ["exception", "tool error", "handler error", "error result"])
async def test_a_tool_that_fails_leaves_no_rows_and_nobody_is_told(
    session: Session, stage: Stage, tool: str, how: str
) -> None:
    result = await session.call_tool(tool, title="lost", how=how)
    assert result["isError"]
    assert "Ending" not in str(result)
    assert stage.details("written") == [True]
    assert "committed" not in stage.names()
    assert await names() == []
    assert not await Topic.objects.aexists()


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_tool_that_works_leaves_them_and_tells(session: Session, stage: Stage, tool: str) -> None:
    result = await session.call_tool(tool, title="kept", how="result")
    assert not result["isError"]
    assert stage.names() == ["written", "committed"]
    assert await names() == ["kept"]
    assert await Topic.objects.aexists()


async def test_a_tool_that_does_not_say_so_is_not_atomic(session: Session) -> None:
    for how in ("exception", "tool error", "error result"):
        with case(how):
            assert (await session.call_tool("write_at_once", title=how, how=how))["isError"]
    assert await names() == ["error result", "exception", "tool error"]


async def test_what_a_tool_gives_up_itself_takes_nothing_else_with_it(session: Session) -> None:
    assert await session.call("write_in_part", title="kept") == {"result": "kept the rest"}
    assert await names() == ["kept"]


async def test_arguments_that_are_wrong_open_no_transaction(session: Session, stage: Stage) -> None:
    assert (await session.call_tool("write", title=7, how="result"))["isError"]
    assert stage.events == []


async def test_calls_side_by_side_have_a_transaction_each(session: Session) -> None:
    calls = [
        session.begin(session.tool("write", title=f"{how} {n}", how=how))
        for how in ("result", "exception")
        for n in range(5)
    ]
    for call in calls:
        assert (await call.response()).status == 200
    assert await names() == [f"result {n}" for n in range(5)]


async def test_a_run_that_ends_with_a_question_leaves_nothing_since_another_will_follow(
    application: Application, stage: Stage
) -> None:
    modern = Stateless(Client(application, "/atomic/mcp"), ASKABLE)
    result = await modern.call_tool("write", {"title": "twice", "how": "question"})
    assert result["resultType"] == "input_required"
    assert stage.details("written") == [True]
    assert await names() == []


ARCHIVE = "archive"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[None]:
    """Another database, with one table."""
    configured = from_url(f"sqlite:///{tmp_path / 'archive.sqlite3'}", tmp_path)
    connections.settings[ARCHIVE] = connections.configure_settings({"default": configured})["default"]
    with connections[ARCHIVE].schema_editor() as editor:
        editor.create_model(Group)
    yield
    connections[ARCHIVE].close()
    del connections[ARCHIVE]
    del connections.settings[ARCHIVE]


def test_the_transaction_is_one_of_the_database_that_is_named(archive: None) -> None:
    server = MCPServer("atomic elsewhere")
    created = Group.objects.using(ARCHIVE).create

    @server.tool(atomic=ARCHIVE)
    def tool(title: str) -> CallToolResult:
        assert not connections["default"].in_atomic_block
        created(name=title)
        return CallToolResult(content=[], is_error=title == "lost")

    (registration,) = server.registrations
    run = in_transaction(registration.fn, registration.options["atomic"])
    for title in ("lost", "kept"):
        run(title)
    assert [group.name for group in Group.objects.using(ARCHIVE).all()] == ["kept"]
