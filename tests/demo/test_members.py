"""/members/mcp lets nobody in who does not say who they are, and shows the report to staff alone."""

from __future__ import annotations

import os
import subprocess
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client as Browser

from demo_project.library.models import Book, Loan, Member
from mcp_django.tokens.models import Token
from tests.demo.eras import REVISIONS, caller
from tests.protocol.client import Client, Session, progress_of
from tests.protocol.entries import application_of
from tests.protocol.stage import SECONDS

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def people(project: None) -> Any:
    """Alice reads, Bob works here; both are gone after the test."""
    alice, bob = (User.objects.create_user(name, is_staff=name == "bob") for name in ("alice", "bob"))
    bob.user_permissions.add(Permission.objects.get(content_type__app_label="library", codename="view_report"))
    yield
    User.objects.filter(pk__in=[alice.pk, bob.pk]).delete()


@sync_to_async
def member(username: str) -> Client:
    _row, raw_token = Token.objects.issue(User.objects.get(username=username))
    return Client(application_of("native"), "/members/mcp", token=raw_token)


async def tools_of(session: Session) -> list[str]:
    return [tool["name"] for tool in (await session.request("tools/list")).result["tools"]]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_whoami_says_whose_the_token_is(people: None, revision: str) -> None:
    for name in ("alice", "bob"):
        called = await caller(await member(name), revision)
        result = await called.request("tools/call", {"name": "whoami", "arguments": {}})
        assert result["structuredContent"] == {"user": name}


async def test_count_counts_in_the_session(people: None) -> None:
    client = await member("alice")
    one, other = await client.open(), await client.open()
    assert [await session.call("count") for session in (one, one, other)] == [{"value": 1}, {"value": 2}, {"value": 1}]


async def test_slow_progress_takes_as_many_steps_as_it_was_asked_for(people: None) -> None:
    session = await (await member("alice")).open()
    *steps, result = await (await session.stream("slow_progress", steps=3, seconds=0.03)).rest()
    assert progress_of(steps) == [1, 2, 3]
    assert result["result"]["structuredContent"] == {"steps": 3}


async def test_the_report_is_for_staff_and_unknown_to_others(people: None) -> None:
    reader, librarian = await (await member("alice")).open(), await (await member("bob")).open()
    assert await tools_of(reader) == ["whoami", "count", "slow_progress"]
    assert await tools_of(librarian) == ["whoami", "count", "slow_progress", "staff_report"]
    hidden = (await reader.post(reader.tool("staff_report"))).error
    unknown = (await reader.post(reader.tool("no_such_tool"))).error
    assert hidden["code"] == unknown["code"]
    assert hidden["message"] == unknown["message"].replace("no_such_tool", "staff_report")


async def test_the_report_counts_the_loans(people: None) -> None:
    session = await (await member("bob")).open()
    assert await session.call("staff_report") == {"rows": 0}
    await lend()
    assert await session.call("staff_report") == {"rows": 1}


@sync_to_async
def lend() -> None:
    book = Book.objects.create(isbn="9780000000002", title="A Quiet Harbour", author="A. Writer", year=1999)
    Loan.objects.create(book=book, member=Member.objects.create(card="LIB-0001", name="A reader"), due="2030-01-01")


async def test_anonymous_callers_are_told_how_to_come_in(project: None) -> None:
    response = await Client(application_of("native"), "/members/mcp").handshake()
    assert response.status == 401
    assert response.error["message"] == "Authentication is required."
    assert (response.header("www-authenticate") or "").startswith("Bearer")


async def test_whoever_is_logged_in_to_the_site_is_in_on_pages_of_the_site_only(people: None) -> None:
    cookie = await sync_to_async(cookie_of)("alice")
    client = Client(application_of("native"), "/members/mcp")
    same = {"Cookie": cookie, "Origin": "http://testserver"}
    assert (await client.handshake(headers=same)).status == 200
    assert (await client.handshake(headers=same | {"Origin": "https://elsewhere.example"})).status == 403


def cookie_of(username: str) -> str:
    browser = Browser()
    browser.force_login(User.objects.get(username=username))
    return f"{settings.SESSION_COOKIE_NAME}={browser.cookies[settings.SESSION_COOKIE_NAME].value}"


@pytest.mark.parametrize("path", ["/mcp", "/everything/mcp"])
async def test_the_open_servers_take_a_token_and_no_token_and_no_wrong_token(people: None, path: str) -> None:
    token = (await member("alice")).token
    expected = {None: 200, token: 200, "mcpt_wrong": 401}
    for sent, status in expected.items():
        assert (await Client(application_of("native"), path, token=sent).handshake()).status == status


async def test_the_open_server_knows_whom_a_token_speaks_for(people: None) -> None:
    token = (await member("alice")).token
    session = await Client(application_of("native"), "/everything/mcp", token=token).open()
    assert (await session.call("session_info"))["user"] == "alice"


# The command, as people type it


def manage(*arguments: str) -> list[str]:
    """What the command prints, in a process of its own, on the tests' database."""
    name = str(connection.settings_dict["NAME"])
    url = f"sqlite:///{name}"
    if connection.vendor != "sqlite":
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    done = subprocess.run(
        [sys.executable, "manage.py", "mcptoken", *arguments],
        cwd=settings.BASE_DIR,
        env=os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "demo_project.settings"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_a_token_comes_from_the_command_and_goes_with_it_and_so_does_its_stream(
    people: None, settings: Settings
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.5  # as in production
    raw_token = (await sync_to_async(manage)("create", "alice"))[-1]
    client = Client(application_of("native"), "/members/mcp", token=raw_token)
    session = await client.open()
    call = session.tool("slow_progress", steps=3_000, seconds=300)
    stream = await session.stream("slow_progress", **call["params"]["arguments"])
    assert progress_of([await stream.message()]) == [1]
    assert await sync_to_async(manage)("revoke", "--user", "alice") == ["Tokens of alice revoked: 1."]
    revoked_at = monotonic()
    assert "result" not in str(await stream.rest())
    # Within a poll, and what a busy machine adds to it.
    assert monotonic() - revoked_at < 5
    assert (await session.request("tools/list")).status == 401
    # The call is still alice's, who ends it.
    newer = session.of(await member("alice"))
    assert (await newer.delete()).status in (200, 202, 204)
