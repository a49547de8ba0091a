"""mcp_django.testing as a project's own tests use it: in a TestCase, whose transaction nobody else sees."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, TestCase
from django.urls import reverse

from demo_project.everything.server import everything
from demo_project.library.models import Book
from mcp_django import mcp
from mcp_django.models import Session
from mcp_django.testing import ClientError, connect


class ConnectInsideATransactionTests(TestCase):
    async def test_a_call_sees_the_rows_that_the_test_made(self) -> None:
        await Book.objects.acreate(isbn="9780000000002", title="The Quiet Harbour", author="A. Writer", year=1999)
        async with connect(mcp) as client:
            result = await client.call_tool("search_books", {"query": "Quiet"})
        assert "The Quiet Harbour" in result["content"][0]["text"]

    async def test_state_is_kept_from_call_to_call_and_over_a_restart(self) -> None:
        async with connect(everything) as client:
            await client.call_tool("count")
            client.restart()
            result = await client.call_tool("count")
            info = await client.call_tool("session_info")
        assert result["structuredContent"] == {"value": 2}
        assert info["structuredContent"]["restored"] is True

    async def test_sync_tools_run_on_the_tests_connection(self) -> None:
        async with connect(everything) as client:
            before = await client.call_tool("orm_roundtrip")
            assert "isError" not in before or not before["isError"]

    async def test_the_session_is_a_row_while_the_client_is_connected_and_ended_after(self) -> None:
        async with connect(everything) as client:
            assert client.session_id is not None
            row = await sync_to_async(Session.objects.for_id)(client.session_id)
            assert row.status == Session.Status.ACTIVE
        await row.arefresh_from_db()
        assert row.status == Session.Status.TERMINATED

    async def test_a_refusal_is_an_exception_with_code_and_text(self) -> None:
        async with connect(everything) as client:
            with pytest.raises(ClientError) as caught:
                await client.call_tool("no_such_tool")
        assert caught.value.code == -32602
        assert "no_such_tool" in caught.value.message

    async def test_what_a_call_reports_is_there_when_it_is_over(self) -> None:
        async with connect(everything) as client:
            await client.call_tool("slow_progress", {"steps": 3, "seconds": 0})
        assert [message["params"]["progress"] for message in client.notifications] == [1, 2, 3]

    async def test_a_question_is_answered_by_the_test(self) -> None:
        asked: list[str] = []

        def answer(params: dict[str, Any]) -> dict[str, Any]:
            asked.append(params["message"])
            return {"action": "accept", "content": {"name": "Ada"}}

        async with connect(everything, answers={"elicitation/create": answer}) as client:
            result = await client.call_tool("ask_name")
        assert asked == ["What is your name?"]
        assert result["structuredContent"] == {"action": "accept", "name": "Ada"}

    async def test_a_client_that_answers_nothing_cannot_be_asked(self) -> None:
        async with connect(everything) as client:
            result = await client.call_tool("ask_name")
        assert result["isError"]
        assert "elicitation" in result["content"][0]["text"]

    async def test_a_request_past_the_helpers_says_what_to_use_instead(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"mcp_django\.testing"):
            await AsyncClient().post(reverse("mcp_django:mcp-default"), {}, content_type="application/json")
