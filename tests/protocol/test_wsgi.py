"""Under WSGI the same URLs work: each request has an event loop that ends with it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from mcp_django.models import ClientRequest, Stream, digest_of
from mcp_django.models import Session as Row
from mcp_django.sessions import sessions
from tests.protocol.client import initialize_params, with_progress
from tests.protocol.stage import SECONDS, Stage

if TYPE_CHECKING:
    from pytest_django import Settings

PATH = "/protocol/mcp"


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


def post(browser: Client, message: Any, session: str | None = None, **headers: str) -> Any:
    body = message if isinstance(message, bytes) else json.dumps(message)
    given = {"Accept": "application/json, text/event-stream", **headers}
    if session is not None:
        given["Mcp-Session-Id"] = session
    return browser.post(PATH, body, content_type="application/json", headers=given)


def request(method: str, params: Any = None) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 1, "method": method}
    return message if params is None else message | {"params": params}


def opened(browser: Client) -> str:
    response = post(browser, request("initialize", initialize_params()))
    assert response.status_code == 200
    session: str = response.headers["Mcp-Session-Id"]
    assert post(browser, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session).status_code == 202
    return session


def call(browser: Client, session: str, tool: str, **arguments: Any) -> Any:
    response = post(browser, request("tools/call", {"name": tool, "arguments": arguments}), session)
    assert response.status_code == 200
    result = response.json()["result"]
    assert not result.get("isError"), result
    return result["structuredContent"]


def test_a_session_lives_from_its_handshake_to_its_end(browser: Client, stage: Stage) -> None:
    session = opened(browser)
    assert stage.count("on_initialized") == stage.count("second on_initialized") == 1
    assert call(browser, session, "add", a=1, b=2) == {"result": 3}
    assert call(browser, session, "multiply", a=1, b=2) == {"result": 2}
    assert call(browser, session, "discount", price=200) == {"result": 180}
    assert [call(browser, session, tool) for tool in ("count", "acount", "count")] == [{"value": v} for v in (1, 2, 3)]
    response = browser.delete(PATH, headers={"Mcp-Session-Id": session})
    assert (response.status_code, response.content) == (204, b"")
    assert post(browser, request("ping"), session).status_code == 404
    assert Row.objects.get().status == "terminated"


def test_a_session_is_restored_with_its_state(browser: Client, stage: Stage) -> None:
    session = opened(browser)
    call(browser, session, "count")
    sessions().live.drop(digest_of(session))
    assert call(browser, session, "facts")["restored"] == {"reason": "evicted", "count": 1}
    assert stage.details("second on_restore") == [1]
    assert call(browser, session, "count") == {"value": 2}


def test_tools_know_their_user_and_request(browser: Client) -> None:
    User.objects.create(username="alice")
    headers = {"Authorization": "Bearer token-of-alice", "X-Told": "something"}
    response = post(browser, request("initialize", initialize_params()), **headers)
    session = response.headers["Mcp-Session-Id"]
    for tool in ("facts", "facts_in_thread"):
        response = post(browser, request("tools/call", {"name": tool}), session, **headers)
        facts = response.json()["result"]["structuredContent"]
        assert (facts["user"], facts["path"], facts["header"]) == ("alice", PATH, "something")
    assert post(browser, request("ping"), session).status_code == 404


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_call_is_stopped_by_a_request_that_another_thread_serves(browser: Client, stage: Stage, end: str) -> None:
    session = opened(browser)
    with ThreadPoolExecutor(1) as pool:
        message = request("tools/call", {"name": "wait_for_ever"})
        calling = pool.submit(post, Client(), message, session)
        deadline = monotonic() + SECONDS
        while not stage.count("waiting for ever"):
            assert monotonic() < deadline
            sleep(0.005)
        if end == "cancel":
            notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            assert post(browser, notification, session).status_code == 202
        else:
            assert browser.delete(PATH, headers={"Mcp-Session-Id": session}).status_code == 204
        response = calling.result(timeout=SECONDS)
    assert response.json()["error"]["code"] == (-32800 if end == "cancel" else -32000)


def test_get_is_405(browser: Client) -> None:
    response = browser.get(PATH, headers={"Accept": "text/event-stream"})
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_what_needs_an_event_stream_is_not_advertised(browser: Client) -> None:
    advertised = post(browser, request("initialize", initialize_params())).json()["result"]["capabilities"]
    assert "logging" not in advertised
    for name in ("tools", "prompts", "resources"):
        assert not advertised[name].get("listChanged")
    assert not advertised["resources"].get("subscribe")


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
def test_an_answer_leaves_in_one_piece_whatever_the_call_says_and_however_long_it_takes(
    browser: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.001
    session = opened(browser)
    for tool, arguments, value in (("steps", {"steps": 3}, 3), ("talk", {}, "done"), ("poll", {"times": 2}, "done")):
        message = with_progress(request("tools/call", {"name": tool, "arguments": arguments}))
        response = post(browser, message, session)
        assert response.headers["Content-Type"] == "application/json"
        assert response.json()["result"]["structuredContent"] == {"value": value}
    assert not Stream.objects.exists()


def test_nobody_can_be_asked(browser: Client) -> None:
    params = initialize_params() | {"capabilities": {"elicitation": {}, "sampling": {}, "roots": {}}}
    session = post(browser, request("initialize", params)).headers["Mcp-Session-Id"]
    for tool in ("ask", "ask_ping"):
        result = post(browser, request("tools/call", {"name": tool}), session).json()["result"]
        assert result["isError"]
        assert "WSGI" in result["content"][0]["text"]
    assert call(browser, session, "ask_if_possible") == {"value": "went without"}
    assert not ClientRequest.objects.exists()


def test_a_batch_is_answered_in_one_array(browser: Client) -> None:
    response = post(browser, request("initialize", initialize_params("2025-03-26")))
    session = response.headers["Mcp-Session-Id"]
    message = request("tools/call", {"name": "meet_in_thread", "arguments": {"size": 4}})
    answers = post(browser, [message] * 4, session).json()
    assert [answer["result"]["structuredContent"] for answer in answers] == [{"value": 0}] * 4


def test_bad_input_is_refused_as_under_asgi(browser: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_BODY_BYTES = 1000
    session = opened(browser)
    for body, status, code in (
        (b"{", 400, -32700),
        (b"\xff", 400, -32700),
        (b" " * 2000, 413, -32600),
        (json.dumps(request("nope")).encode(), 200, -32601),
    ):
        response = post(browser, body, session)
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
    assert post(browser, request("ping")).status_code == 400
    assert post(browser, request("ping"), session, Origin="https://evil.example").status_code == 403
    assert call(browser, session, "add", a=1, b=2) == {"result": 3}
