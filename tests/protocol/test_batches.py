"""JSON-RPC arrays: a MUST of 2025-03-26, gone with 2025-06-18."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mcp_django.models import Session as Row
from tests.protocol.client import Client, initialize_params
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

BATCHING = ["2024-11-05", "2025-03-26"]
LATER = ["2025-06-18", "2025-11-25"]
NOTIFICATION = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
ANSWER = {"jsonrpc": "2.0", "id": 99, "result": {}}


@pytest.mark.parametrize("version", BATCHING)
async def test_a_batch_s_requests_are_answered_in_their_order_in_one_array(client: Client, version: str) -> None:
    session = await client.open(version)
    messages = [
        session.tool("add", a=1, b=1),
        NOTIFICATION,
        client.message("no/such/method"),
        ANSWER,
        session.tool("multiply", a=3, b=3),
        {"jsonrpc": "2.0", "id": "text", "method": "ping"},
    ]
    response = await session.post(messages)
    assert response.status == 200
    answers = response.json
    assert [answer["id"] for answer in answers] == [m["id"] for m in messages if "id" in m and "method" in m]
    assert answers[0]["result"]["structuredContent"] == {"result": 2}
    assert answers[1]["error"]["code"] == -32601
    assert answers[2]["result"]["structuredContent"] == {"result": 9}
    assert answers[3]["result"] == {}


async def test_a_batch_s_requests_run_side_by_side_and_still_leave_in_order(client: Client, stage: Stage) -> None:
    session = await client.open("2025-03-26")
    first, second = stage.hold("first"), stage.hold("second")
    messages = [session.tool("pause", place="first"), session.tool("pause", place="second")]
    exchange = session.begin(messages)
    await first.reached()
    await second.reached()
    second.open()
    first.open()
    answers = (await exchange.response()).json
    assert [answer["id"] for answer in answers] == [message["id"] for message in messages]


async def test_a_batch_of_one_is_answered_with_an_array_of_one(client: Client) -> None:
    session = await client.open("2025-03-26")
    message = client.message("ping")
    assert (await session.post([message])).json == [{"jsonrpc": "2.0", "id": message["id"], "result": {}}]


async def test_two_requests_of_a_batch_with_one_id_are_both_answered(client: Client) -> None:
    session = await client.open("2025-03-26")
    message = client.message("ping")
    assert (await session.post([message, message])).json == [{"jsonrpc": "2.0", "id": message["id"], "result": {}}] * 2


@pytest.mark.parametrize("version", BATCHING)
@pytest.mark.parametrize("messages", [[NOTIFICATION], [ANSWER], [NOTIFICATION, ANSWER, NOTIFICATION]], ids=len)
async def test_a_batch_without_requests_is_202_with_an_empty_body(
    client: Client, version: str, messages: list[Any]
) -> None:
    session = await client.open(version)
    response = await session.post(messages)
    assert (response.status, response.body) == (202, b"")


async def test_a_batch_s_notifications_take_effect(client: Client, stage: Stage) -> None:
    session = await client.open("2025-03-26", initialized=False)
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    (answer,) = (await session.post([initialized, client.message("ping")])).json
    assert answer["result"] == {}
    assert stage.count("on_initialized") == 1
    assert (await Row.objects.aget()).initialized_at is not None


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("size", [0, 1, 2])
async def test_later_revisions_refuse_arrays_with_http_200_on_a_valid_session(
    client: Client, version: str, size: int
) -> None:
    session = await client.open(version)
    response = await session.post([session.tool("count")] * size)
    assert response.status == 200
    assert response.error["code"] == -32600
    assert await session.call("count") == {"value": 1}, "None of the batch must have run."


@pytest.mark.parametrize("version", BATCHING)
async def test_an_empty_batch_is_an_invalid_request(client: Client, version: str) -> None:
    session = await client.open(version)
    response = await session.post([])
    assert response.status == 200
    assert response.error["code"] == -32600


@pytest.mark.parametrize("version", BATCHING)
@pytest.mark.parametrize("place", [0, 1])
async def test_a_batch_with_initialize_in_it_is_an_invalid_request_and_nothing_of_it_runs(
    client: Client, version: str, place: int
) -> None:
    session = await client.open(version)
    messages = [session.tool("count")]
    messages.insert(place, client.message("initialize", initialize_params()))
    response = await session.post(messages)
    assert response.status == 200
    assert response.error["code"] == -32600
    assert response.header("mcp-session-id") is None
    assert await session.call("count") == {"value": 1}
    assert await Row.objects.acount() == 1


async def test_a_batch_without_a_session_is_400_even_if_it_holds_an_initialize(client: Client) -> None:
    response = await client.post([client.message("initialize", initialize_params())])
    assert response.status == 400
    assert response.error["code"] == -32600
    assert not await Row.objects.aexists()


@pytest.mark.parametrize("broken", [5, {}, [], {"jsonrpc": "2.0", "id": 1, "method": 5}], ids=str)
async def test_a_batch_with_something_in_it_that_is_no_message_is_refused_and_the_session_goes_on(
    client: Client, broken: Any
) -> None:
    session = await client.open("2025-03-26")
    response = await session.post([broken, client.message("ping")])
    assert response.status == 200
    answers = response.json if isinstance(response.json, list) else [response.json]
    assert answers[0]["error"]["code"] == -32600
    assert (await session.request("ping")).result == {}


async def test_a_batch_over_the_limit_is_refused_with_http_200_and_nothing_of_it_runs(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_BATCH = 3
    session = await client.open("2025-03-26")
    assert len((await session.post([client.message("ping") for _ in range(3)])).json) == 3
    response = await session.post([session.tool("count") for _ in range(4)])
    assert response.status == 200
    assert response.error["code"] == -32600
    assert "MAX_BATCH" in response.error["message"]
    assert await session.call("count") == {"value": 1}


async def test_a_huge_array_is_refused_quickly(client: Client) -> None:
    session = await client.open("2025-03-26")
    response = await session.begin([0] * 100_000).response(within=5.0)
    assert response.error["code"] == -32600


async def test_a_failing_call_fails_alone_in_its_batch(client: Client) -> None:
    session = await client.open("2025-03-26")
    messages = [
        session.tool("fail", how="plain"),
        session.tool("odd", kind="nan"),
        session.tool("fail", how="mcp"),
        session.tool("add", a=1, b=2),
    ]
    answers = (await session.post(messages)).json
    assert [answer["id"] for answer in answers] == [message["id"] for message in messages]
    assert answers[0]["result"]["isError"]
    assert answers[2]["error"]["code"] == -32050
    assert answers[3]["result"]["content"][0]["text"] == "3"


async def test_one_call_of_a_batch_can_be_cancelled(client: Client, stage: Stage) -> None:
    session = await client.open("2025-03-26")
    gate = stage.hold("here")
    messages = [session.tool("pause", place="here"), session.tool("add", a=1, b=2)]
    exchange = session.begin(messages)
    await gate.reached()
    await session.cancel(messages[0]["id"])
    cancelled, added = (await exchange.response()).json
    assert cancelled["error"]["code"] == -32800
    assert added["result"]["content"][0]["text"] == "3"
