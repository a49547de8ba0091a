"""What is offered to some callers only: in no list of the others, and to them as unknown as what is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType

from mcp_django.asgi import Application
from tests.protocol.auth_servers import RULES, Grant
from tests.protocol.client import Client, Response, Session, case
from tests.protocol.entries import native_by_default
from tests.protocol.servers import SECRET
from tests.protocol.stage import Stage
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio


entry = native_by_default


HOWS = [*RULES, "method"]
PATH = "/guarded-things/mcp"
WRITE = frozenset({"write"})


class Caller:
    """Sends requests of either era; a session is opened at first use."""

    def __init__(self, client: Client, era: str) -> None:
        self.client = client
        self.era = era
        self.modern = Stateless(client)
        self.session: Session | None = None

    async def ask(
        self, method: str, params: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        if self.era == "modern":
            message = self.modern.message(method, params)
            return await self.modern.post({**message, "id": 1}, headers)
        if self.session is None:
            self.session = await self.client.open()
        message = self.client.message(method, params)
        return await self.session.post({**message, "id": 1}, headers)

    async def names(self, method: str, key: str, name: str) -> set[str]:
        found = {item[name] for item in (await self.ask(method)).result[key]}
        return {item for item in found if "by_" in item and "mirrored" not in item}


@pytest.fixture(params=["handshake", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def call_as(application: Application, era: str) -> Callable[[str | None], Caller]:
    return lambda token: Caller(Client(application, PATH, token=token), era)


@sync_to_async
def user(name: str, *, permitted: bool = False, **fields: Any) -> None:
    made = User.objects.create_user(name, **fields)
    if permitted:
        made.user_permissions.add(permission())


def permission() -> Permission:
    # Some tests of other packages leave a database without permissions.
    content_type = ContentType.objects.get_for_model(Group)
    found, _made = Permission.objects.get_or_create(content_type=content_type, codename="view_group")
    return found


@pytest.fixture(autouse=True)
async def callers(granted: dict[str, Grant]) -> None:
    """Who may all, who may nothing, and whoever may a part."""
    await user("root", is_superuser=True, is_staff=True)
    await user("holder", permitted=True, is_staff=True)
    await user("bob")
    granted["of-root"] = Grant("root")
    granted["of-holder"] = Grant("holder")
    granted["of-writer"] = Grant("holder", scopes=WRITE)
    granted["of-reader"] = Grant("holder", scopes=frozenset({"read"}))
    granted["of-bob"] = Grant("bob", scopes=frozenset())
    granted["of-bob-who-may-write"] = Grant("bob", scopes=WRITE)
    granted["of-app"] = Grant("holder", "app", scopes=frozenset({"read"}), can_step_up=True)
    granted["of-bobs-app"] = Grant("bob", "app", scopes=frozenset({"read"}), can_step_up=True)


LISTS: list[tuple[str, str, str, Callable[[str], str]]] = [
    ("tools/list", "tools", "name", lambda how: f"by_{how}"),
    ("prompts/list", "prompts", "name", lambda how: f"by_{how}"),
    ("resources/list", "resources", "uri", lambda how: f"test://by_{how}"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate", lambda how: f"test://by_{how}/{{name}}"),
]
OFFERED = {
    "of-root": {*HOWS},
    "of-holder": {*HOWS},
    "of-writer": {*HOWS},
    "of-reader": {*HOWS} - {"scope", "both"},
    "of-bob": set(),
    "of-bob-who-may-write": {"scope"},
    "of-app": {*HOWS},
    # With the scope there would be one of them.
    "of-bobs-app": {"scope"},
    None: set(),
}


@pytest.mark.parametrize(("method", "key", "name", "named"), LISTS, ids=[entry[0] for entry in LISTS])
async def test_a_list_has_what_its_caller_is_offered(
    call_as: Callable[[str | None], Caller], method: str, key: str, name: str, named: Callable[[str], str]
) -> None:
    for token, hows in OFFERED.items():
        with case(token):
            assert await call_as(token).names(method, key, name) == {named(how) for how in hows}


def uses(name: str) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Each request that names a thing: method, params and headers."""
    uri = f"test://{name}"
    argument = {"name": "subject", "value": ""}
    return [
        ("tools/call", {"name": name, "arguments": {}}, {}),
        ("tools/call", {"name": f"mirrored_{name}", "arguments": {"region": "x"}}, {"Mcp-Param-Region": "wrong"}),
        ("prompts/get", {"name": name}, {}),
        ("resources/read", {"uri": uri}, {}),
        ("resources/read", {"uri": f"{uri}/ada"}, {}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": name}, "argument": argument}, {}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": f"{uri}/{{name}}"}, "argument": argument}, {}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": uri}, "argument": argument}, {}),
        ("tools/call", {"name": "read", "arguments": {"uri": uri}}, {}),
        ("tools/call", {"name": "read", "arguments": {"uri": f"{uri}/ada"}}, {}),
    ]


def comparable(response: Response, name: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a caller can tell a response from another by, but for the name that was asked for."""
    body = response.body.replace(name.encode(), b"NAME")
    headers = [(key, value) for key, value in response.headers if key.lower() != "content-length"]
    return response.status, headers, body


async def answers(caller: Caller, name: str) -> list[tuple[int, list[tuple[str, str]], bytes]]:
    requests = uses(name)
    if caller.era == "handshake":
        requests.append(("resources/subscribe", {"uri": f"test://{name}"}, {}))
    return [comparable(await caller.ask(method, params, headers), name) for method, params, headers in requests]


async def test_what_is_hidden_answers_exactly_as_what_is_not_there(
    call_as: Callable[[str | None], Caller], stage: Stage
) -> None:
    for token, offered in OFFERED.items():
        if offered == {*HOWS}:
            continue
        caller = call_as(token)
        unknown = await answers(caller, "by_nothing")
        for how in HOWS:
            if how not in offered:
                with case((token, how)):
                    # There is no mirrored method, which is as it should be: unknown.
                    assert await answers(caller, f"by_{how}") == unknown
    assert "a guarded tool ran" not in stage.names()


async def test_whoever_is_offered_something_can_use_it(call_as: Callable[[str | None], Caller]) -> None:
    for token, offered in OFFERED.items():
        if token in ("of-app", "of-bobs-app"):
            continue
        caller = call_as(token)
        for how in offered:
            with case((token, how)):
                name = f"by_{how}"
                for method, params, headers in uses(name):
                    if "mirrored" not in str(params):
                        response = await caller.ask(method, params, headers)
                        assert not response.result.get("isError")
                        assert "went without" not in response.body.decode()
                if caller.era == "handshake":
                    assert (await caller.ask("resources/subscribe", {"uri": f"test://{name}"})).result == {}


async def test_headers_are_checked_for_those_who_see_the_tool(application: Application) -> None:
    params = {"name": "mirrored_by_permission", "arguments": {"region": "x"}}
    holder, bob = [Caller(Client(application, PATH, token=token), "modern") for token in ("of-holder", "of-bob")]
    wrong = await holder.ask("tools/call", params, {"Mcp-Param-Region": "y"})
    assert (wrong.status, wrong.error["code"]) == (400, -32020)
    hidden = await bob.ask("tools/call", params, {"Mcp-Param-Region": "y"})
    assert hidden.error["code"] == -32602
    assert "Unknown tool" in hidden.error["message"]


async def test_a_permission_that_is_given_or_taken_between_two_calls_counts_at_the_next(
    call_as: Callable[[str | None], Caller],
) -> None:
    @sync_to_async
    def change(permitted: bool) -> None:
        permissions = User.objects.get(username="bob").user_permissions
        (permissions.add if permitted else permissions.remove)(permission())

    bob = call_as("of-bob")
    for permitted in (True, False, True):
        await change(permitted)
        response = await bob.ask("tools/call", {"name": "by_permission", "arguments": {}})
        assert ("result" in response.json) is permitted
        assert ("by_permission" in await bob.names("tools/list", "tools", "name")) is permitted


@pytest.mark.parametrize("how", ["function", "async_function"])
async def test_a_function_that_fails_is_an_error_and_hides_nothing(
    call_as: Callable[[str | None], Caller], stage: Stage, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    place = {"function": "asked is_staff", "async_function": "asked is_staff_async"}[how]
    holder = call_as("of-holder")
    requests: list[tuple[str, dict[str, Any]]] = [
        ("tools/list", {}),
        ("tools/call", {"name": f"by_{how}", "arguments": {}}),
        ("prompts/get", {"name": f"by_{how}"}),
        ("resources/read", {"uri": f"test://by_{how}"}),
    ]
    for method, params in requests:
        with case(method):
            assert "result" in (await holder.ask(method, params)).json
            stage.fail(place, RuntimeError(SECRET))
            response = await holder.ask(method, params)
            assert response.error["code"] == -32603
            assert SECRET not in response.body.decode()
            assert SECRET in caplog.text
            stage.reset()


async def test_a_function_is_asked_about_the_user_and_once_for_a_list(
    call_as: Callable[[str | None], Caller], stage: Stage
) -> None:
    for token, name in (("of-holder", "holder"), ("of-bob", "bob"), (None, "")):
        caller = call_as(token)
        await caller.ask("tools/list")
        stage.reset()
        await caller.ask("tools/list")
        for place in ("asked is_staff", "asked is_staff_async"):
            assert stage.details(place) == [name]


async def test_what_a_tool_reads_for_its_caller_is_what_the_caller_may_read(
    call_as: Callable[[str | None], Caller],
) -> None:
    # Who could get the scope has not got it.
    expected = {"of-holder": "a resource", "of-reader": "went without", "of-app": "went without", None: "went without"}
    for token, value in expected.items():
        with case(token):
            params = {"name": "read", "arguments": {"uri": "test://by_scope"}}
            result = (await call_as(token).ask("tools/call", params)).result
            assert result["structuredContent"] == {"value": value}


async def test_a_filter_of_notices_leaves_out_what_its_caller_may_not_read(application: Application) -> None:
    uris = [f"test://by_{how}" for how in [*HOWS, "nothing"]] + ["test://by_permission/ada"]
    for token, offered in OFFERED.items():
        if token in ("of-app", "of-bobs-app"):
            offered = offered - {"scope", "both"}
        with case(token):
            stream = await Stateless(Client(application, PATH, token=token)).listen(resourceSubscriptions=uris)
            told = (await stream.message())["params"]["notifications"].get("resourceSubscriptions", [])
            expected = {f"test://by_{how}" for how in offered}
            if "permission" in offered:
                expected.add("test://by_permission/ada")
            assert set(told) == expected
            await stream.disconnect()


# Scopes that the client can get


STEP_UP = (
    'Bearer error="insufficient_scope", error_description="This needs the scopes write, which the credentials do not '
    'have.", scope="read write"'
)


async def test_whoever_can_get_a_scope_is_told_which_and_that_with_an_http_status(
    call_as: Callable[[str | None], Caller], stage: Stage
) -> None:
    app = call_as("of-app")
    for how in ("scope", "both"):
        for method, params, headers in uses(f"by_{how}"):
            if params.get("name") == "read":
                continue
            with case((method, params)):
                response = await app.ask(method, params, headers)
                assert response.status == 403
                assert response.header("www-authenticate") == STEP_UP
                assert "write" in response.error["message"]
    if app.era == "handshake":
        assert (await app.ask("resources/subscribe", {"uri": "test://by_scope"})).status == 403
    assert "a guarded tool ran" not in stage.names()
    # The session is what it was.
    assert (await app.ask("tools/call", {"name": "anybody", "arguments": {}})).result["structuredContent"]


async def test_with_the_scope_it_is_let_in_and_goes_on(
    call_as: Callable[[str | None], Caller], granted: dict[str, Grant]
) -> None:
    app = call_as("of-app")
    assert (await app.ask("tools/call", {"name": "by_scope", "arguments": {}})).status == 403
    granted["of-app"] = Grant("holder", "app", scopes=frozenset({"read", "write"}), can_step_up=True)
    assert (await app.ask("tools/call", {"name": "by_scope", "arguments": {}})).result["structuredContent"]


async def test_whoever_would_not_be_offered_it_with_the_scope_either_is_told_nothing(
    call_as: Callable[[str | None], Caller],
) -> None:
    app = call_as("of-bobs-app")
    unknown = await answers(app, "by_nothing")
    assert await answers(app, "by_both") == unknown
    assert (await app.ask("tools/call", {"name": "by_scope", "arguments": {}})).status == 403


async def test_a_function_that_fails_while_scopes_are_looked_at_is_an_error(
    application: Application, stage: Stage, granted: dict[str, Grant], era: str
) -> None:
    granted["of-app"] = Grant("holder", "app", scopes=frozenset(), can_step_up=True)
    caller = Caller(Client(application, "/scoped-functions/mcp", token="of-app"), era)
    assert (await caller.ask("tools/call", {"name": "scoped", "arguments": {}})).status == 403
    stage.fail("asked is_staff", RuntimeError(SECRET))
    response = await caller.ask("tools/call", {"name": "scoped", "arguments": {}})
    assert response.error["code"] == -32603
    assert response.json["id"] == 1


async def test_of_a_batch_the_member_that_lacks_a_scope_fails_alone(application: Application, stage: Stage) -> None:
    session = await Client(application, PATH, token="of-app").open("2025-03-26")
    calls = [session.tool("anybody"), session.tool("by_scope"), session.tool("by_permission")]
    first, second, third = (await session.post(calls)).json
    assert first["result"]["structuredContent"] == {"result": "anybody"}
    assert second["id"] == calls[1]["id"]
    assert second["error"]["code"] == -32600
    assert "write" in second["error"]["message"]
    assert third["result"]["structuredContent"] == {"result": "a tool"}
    assert stage.count("a guarded tool ran") == 1
    (hidden,) = (await session.post([session.tool("by_nothing")])).json
    assert hidden["error"]["code"] == -32602


# For whom lists may be kept


async def test_lists_are_for_everybody_to_keep_only_where_everybody_gets_the_same(application: Application) -> None:
    expected = {
        ("/guarded-things/mcp", None): "private",
        ("/guarded-things/mcp", "of-holder"): "private",
        ("/closed/mcp", "of-holder"): "private",
        ("/opened/mcp", None): "public",
        ("/opened/mcp", "of-holder"): "public",
    }
    methods = ["server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list"]
    for (path, token), scope in expected.items():
        for method in methods:
            with case((path, token, method)):
                result = (await Stateless(Client(application, path, token=token)).request(method)).result
                assert result["cacheScope"] == scope
