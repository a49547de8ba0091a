"""initialize: what is negotiated, what is advertised, what becomes of a handshake that fails."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from mcp_django import signals
from mcp_django.models import Session as Row
from mcp_django.models import digest_of
from tests.protocol.client import Client, case, initialize_params, together
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio

SERVED = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
HOOKS = ["made", "on_initialize", "second on_initialize"]


@pytest.mark.parametrize("version", SERVED)
async def test_every_served_revision_is_agreed_to_and_spoken(client: Client, version: str) -> None:
    session = await client.open(version)
    assert session.version == version
    assert (await session.call("facts"))["version"] == version
    row = await Row.objects.aget()
    assert row.protocol_version == version


async def test_an_unknown_version_is_answered_with_our_latest(client: Client) -> None:
    for version in ("2026-07-28", "2023-01-01", "1.0.0", "", "'; DROP TABLE sessions", "9" * 1000):
        with case(version):
            assert (await client.handshake(version)).result["protocolVersion"] == "2025-11-25"


async def test_the_server_says_who_it_is(client: Client) -> None:
    result = (await client.handshake()).result
    assert result["serverInfo"] == {
        "name": "protocol",
        "title": "Protocol tests",
        "version": "1.2.3",
        "description": "One of everything.",
    }
    assert result["instructions"] == "Call what you like."


@pytest.mark.parametrize(
    ("path", "capabilities"),
    [
        ("/protocol/mcp", {"tools", "prompts", "resources", "completions", "logging"}),
        ("/other/mcp", {"tools", "logging"}),
        ("/empty/mcp", {"logging"}),
    ],
)
async def test_only_what_is_registered_is_advertised(client: Client, path: str, capabilities: set[str]) -> None:
    client.path = path
    advertised = (await client.handshake()).result["capabilities"]
    assert {name for name, value in advertised.items() if value is not None} == capabilities


@pytest.mark.parametrize("version", SERVED)
async def test_what_event_streams_can_deliver_is_advertised(client: Client, version: str) -> None:
    advertised = (await client.handshake(version)).result["capabilities"]
    assert advertised["tools"] == {"listChanged": True}
    assert advertised["prompts"] == {"listChanged": True}
    assert advertised["resources"] == {"listChanged": True, "subscribe": True}
    assert advertised["logging"] == {}


async def test_the_id_is_visible_ascii_and_long_enough_to_be_unguessable(client: Client) -> None:
    ids = [(await client.handshake()).header("mcp-session-id") for _ in range(20)]
    assert len(set(ids)) == 20
    for id in ids:
        assert id is not None
        assert all(0x21 <= ord(character) <= 0x7E for character in id)
        # 32 random bytes make 43 characters.
        assert len(id) >= 43


@pytest.mark.parametrize("chosen", ["my-own-id", "0", "x" * 5000, "../../etc/passwd", "ünïcode"])
async def test_an_id_that_the_client_chose_is_ignored(client: Client, chosen: str) -> None:
    response = await client.handshake(session=chosen)
    assert response.status == 200
    assert response.header("mcp-session-id") not in (None, chosen)
    assert (await client.post(client.message("ping"), session=chosen)).status == 404


async def test_initialize_on_a_living_session_opens_another_one(client: Client) -> None:
    session = await client.open()
    response = await client.handshake(session=session.id)
    assert response.header("mcp-session-id") != session.id
    assert (await session.call("add", a=1, b=1)) == {"result": 2}


async def test_initialize_with_the_envelope_of_2026_is_no_method_of_that_revision(client: Client) -> None:
    message = Stateless(client).message("initialize", initialize_params())
    response = await Stateless(client).post(message)
    assert response.status == 404
    assert response.error["code"] == -32601
    assert response.json["id"] == message["id"]
    assert response.header("mcp-session-id") is None
    assert not await Row.objects.aexists()


@pytest.mark.parametrize("header", ["2026-07-28", "2024-11-05", "nonsense"])
async def test_initialize_without_that_envelope_is_a_handshake_whatever_its_version_header_says(
    client: Client, header: str
) -> None:
    response = await client.handshake(headers={"MCP-Protocol-Version": header})
    assert response.result["protocolVersion"] == "2025-11-25"


WRONG_PARAMS = [
    None,
    {},
    {"protocolVersion": "2025-11-25"},
    initialize_params(version=20251125),
    initialize_params(version=None),
    initialize_params() | {"clientInfo": "a string"},
    initialize_params() | {"clientInfo": {"name": "no version"}},
    initialize_params() | {"clientInfo": {"name": ["a", "list"], "version": "1"}},
    initialize_params() | {"capabilities": []},
    initialize_params() | {"capabilities": {"roots": "yes"}},
    initialize_params() | {"_meta": "not an object"},
]


async def test_wrong_initialize_params_are_invalid_params_and_open_nothing(client: Client) -> None:
    for params in WRONG_PARAMS:
        with case(params):
            response = await client.post(client.message("initialize", params))
            assert response.status == 200
            assert response.error["code"] == -32602
            assert response.header("mcp-session-id") is None
    assert not await Row.objects.aexists()


@pytest.mark.parametrize("id", [None, 1.5, True, [], {}])
async def test_initialize_needs_an_id_that_can_be_answered(client: Client, id: Any) -> None:
    message = {"jsonrpc": "2.0", "id": id, "method": "initialize", "params": initialize_params()}
    response = await client.post(message)
    assert response.status == 400
    assert response.error["code"] == -32600
    assert response.header("mcp-session-id") is None


async def test_initialize_as_a_notification_is_refused(client: Client) -> None:
    response = await client.post({"jsonrpc": "2.0", "method": "initialize", "params": initialize_params()})
    assert response.status == 400
    assert response.error["code"] == -32600
    assert response.header("mcp-session-id") is None


async def test_what_a_later_revision_may_add_to_the_params_is_kept_and_harms_nothing(client: Client) -> None:
    capabilities = {"experimental": {"x": {}}, "sampling": {}, "elicitation": {"form": {}}, "from_the_future": {"a": 1}}
    session = await client.open(capabilities=capabilities, tomorrow={"a": [1, 2]})
    row = await Row.objects.aget()
    assert row.initialize_params["tomorrow"] == {"a": [1, 2]}
    assert row.initialize_params["capabilities"] == capabilities
    assert (await session.request("ping")).result == {}


async def test_the_row_tells_who_opened_the_session_and_it_is_there_when_the_answer_leaves(client: Client) -> None:
    response = await client.handshake(name="clïent\x00\x1b[31m" + "x" * 200)
    assert response.status == 200
    row = await Row.objects.aget()
    assert row.server == "protocol"
    assert row.status == "active"
    assert row.principal == ""
    assert row.owner_id is None
    assert row.initialized_at is None
    assert row.last_process is not None
    assert row.client_name == ("clïent[31m" + "x" * 200)[:100]


async def test_the_client_learns_of_a_session_only_once_its_row_is_committed(client: Client, stage: Stage) -> None:
    gate = stage.hold("on_initialize")
    exchange = client.begin(client.message("initialize", initialize_params()))
    await gate.reached()
    assert not exchange.task.done()
    gate.open()
    assert (await exchange.response()).status == 200
    assert await Row.objects.filter(status="active").acount() == 1


async def test_hooks_run_in_the_order_of_registration_and_at_their_time(client: Client, stage: Stage) -> None:
    session = await client.open(initialized=False)
    assert stage.names() == HOOKS
    assert stage.details("on_initialize") == [("a client", None)]
    await session.notify("notifications/initialized")
    assert stage.names() == [*HOOKS, "on_initialized", "second on_initialized"]
    assert stage.details("on_initialized") == [None]
    assert "on_restore" not in stage.names()


async def test_initialized_is_noted_once_and_told_once(client: Client, stage: Stage) -> None:
    session = await client.open(initialized=False)
    assert (await Row.objects.aget()).initialized_at is None
    await session.notify("notifications/initialized")
    first = (await Row.objects.aget()).initialized_at
    assert first is not None
    assert (await session.notify("notifications/initialized")).status == 202
    assert (await Row.objects.aget()).initialized_at == first
    assert stage.count("on_initialized") == 1


async def test_two_initialized_at_once_are_told_once(client: Client, stage: Stage) -> None:
    session = await client.open(initialized=False)
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    both = [session.begin(message) for _ in range(2)]
    assert [(await exchange.response()).status for exchange in both] == [202, 202]
    assert stage.count("on_initialized") == 1


async def test_a_session_may_be_used_before_initialized_has_come(client: Client) -> None:
    session = await client.open(initialized=False)
    assert (await session.request("ping")).result == {}
    assert await session.call("add", a=2, b=3) == {"result": 5}


@pytest.mark.parametrize("hook", ["on_initialize", "second on_initialize"])
@pytest.mark.parametrize("error", [RuntimeError("the secret reason"), MCPError(-32050, "No room.")], ids=type)
async def test_a_failing_on_initialize_is_an_error_without_an_id_and_its_row_has_ended(
    client: Client, stage: Stage, hook: str, error: Exception
) -> None:
    stage.fail(hook, error)
    message = client.message("initialize", initialize_params())
    response = await client.post(message)
    assert response.header("mcp-session-id") is None
    assert "secret" not in response.body.decode()
    assert not await Row.objects.filter(status="active").aexists()
    assert response.status == 200
    assert response.json["id"] == message["id"]
    assert response.error["code"] == (-32050 if isinstance(error, MCPError) else -32603)
    assert (await client.open()).id


@pytest.mark.parametrize("hook", ["on_initialized", "second on_initialized"])
async def test_a_failing_on_initialized_is_a_202_like_any_notification(
    client: Client, stage: Stage, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open(initialized=False)
    stage.fail(hook, RuntimeError("The hook has a bug."))
    response = await session.notify("notifications/initialized")
    assert (response.status, response.body) == (202, b"")
    assert "The hook has a bug." in caplog.text
    assert await session.call("add", a=1, b=1) == {"result": 2}


async def test_hooks_may_keep_things_in_the_durable_state_from_the_first_one_on(
    client: Client, server_processes: Processes
) -> None:
    client.path = "/other/mcp"
    session = await client.open(name="the client")
    assert await session.call("remembered") == {"value": {"opened_by": "the client", "initialized": 1}}
    await server_processes.restart()
    assert await session.call("remembered") == {"value": {"opened_by": "the client", "initialized": 2}}


async def test_many_handshakes_at_once_open_as_many_sessions(client: Client) -> None:
    exchanges = [client.begin(client.message("initialize", initialize_params())) for _ in range(64)]
    ids = {response.header("mcp-session-id") for response in await together(*exchanges)}
    assert len(ids) == 64
    assert await Row.objects.filter(pk__in=[digest_of(str(id)) for id in ids]).acount() == 64


async def test_an_opened_session_is_announced_with_the_server_as_sender(client: Client) -> None:
    heard: list[tuple[Any, Any]] = []

    def listen(sender: Any, session: Any, **kwargs: Any) -> None:
        heard.append((sender.name, session.client_params.client_info.name))

    signals.session_opened.connect(listen)
    try:
        await client.open(name="the announced one")
    finally:
        signals.session_opened.disconnect(listen)
    assert heard == [("protocol", "the announced one")]


async def test_a_failing_listener_fails_no_handshake(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def listen(**kwargs: Any) -> None:
        raise RuntimeError("A listener has a bug.")

    signals.session_opened.connect(listen)
    try:
        assert (await client.open()).id
    finally:
        signals.session_opened.disconnect(listen)
    assert "A listener has a bug." in caplog.text
