"""Session ids and tokens are bearer secrets: they are in responses to their own client and nowhere else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.live.app import TOKEN_PREFIX
from tests.live.databases import Database
from tests.live.fixtures import Serve
from tests.live.servers import ENTRIES, KINDS, Server, manage, one_by_default
from tests.live.wire import EVERYTHING, LIVE, Client, RPCError

pytestmark = pytest.mark.live


def use(server: Server, path: str, token: str) -> Client:
    """Do all that leaves traces: calls, errors, refusals, a restore, an end."""
    client = Client(server, path=path, token=token).initialize()
    client.request("tools/list")
    client.request("logging/setLevel", {"level": "debug"})
    client.post_call("no_such_tool")
    for method in ("resources/read", "prompts/get", "no/such/method"):
        with pytest.raises(RPCError):
            client.request(method, {"uri": "nowhere://nothing", "name": "no_such_prompt"})
    if path == LIVE:
        client.post_call("fail")
        client.call("remember", key="k", value=1)
    else:
        client.call("session_info")
        client.call("count")
        with client.start("slow_progress", "token", steps=3, seconds=0) as call:
            call.messages(1)
        with client.resume(call) as resumed:
            assert len(resumed.rest()) == 3
        stream_the_session_id(server, token)
    with client.listen() as listening:
        listening.frame()
    with client.resume(listening) as resumed:
        resumed.frame()
    assert client.send("PUT").status_code == 405
    headers = client.headers() | {"Content-Type": "application/json"}
    assert server.http.post(path, headers=headers, content=b"{").status_code == 400
    assert server.http.post(path, headers=headers | {"Accept": "text/html"}, content=b"{}").status_code == 406
    foreign = headers | {"Origin": "https://elsewhere.example"}
    assert server.http.post(path, headers=foreign, content=b"{}").status_code == 403
    return client


def stream_the_session_id(server: Server, token: str) -> None:
    """A result that holds the session id, on a stream and so in a row: what stands there is not the id."""
    client = Client(server, version="2025-03-26", token=token).initialize()
    batch = [
        client.call_message("slow_progress", "token", steps=1, seconds=0.2),
        client.call_message("session_info"),
    ]
    with client.open("POST", batch) as answers:
        found = answers.rest()
    (info,) = [message["result"] for message in found if message.get("id") == batch[1]["id"]]
    assert info["structuredContent"]["session_id"] == "[session id]"


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
@pytest.mark.parametrize("kind", one_by_default(KINDS))
def test_no_session_id_and_no_token_is_logged_or_stored(
    kind: str, entry: str, serve: Serve, database: Database
) -> None:
    # Tools that fail log their traceback; every logger writes at DEBUG (tests/live/settings.py).
    server = serve(kind, entry, may_log_tracebacks=True)
    clients = [
        use(server, EVERYTHING, made_token(database)),
        use(server, LIVE, f"{TOKEN_PREFIX}{uuid.uuid4().hex}"),
    ]
    server.restart()
    for client in clients:
        client.request("ping")
    assert clients[0].delete().status_code == 204
    assert clients[0].post("ping").status_code == 404
    foreign = clients[1].at(server)
    foreign.token = f"{TOKEN_PREFIX}{uuid.uuid4().hex}"
    server.secrets.add(foreign.token)
    assert foreign.post("ping").status_code == 404

    server.terminate()

    assert len(server.secrets) >= 5
    server.check_output()
    assert server.output, "the loggers at DEBUG wrote nothing, so nothing was proven"
    for table, text in contents(database):
        for secret in server.secrets:
            assert secret not in text, f"a session id or a token is stored in {table}"


def made_token(database: Database) -> str:
    """A token of the demo's, for a user of its own."""
    name = f"user-{uuid.uuid4().hex[:12]}"
    manage(database.url, "createsuperuser", "--noinput", "--username", name, "--email", f"{name}@example.com")
    return manage(database.url, "mcptoken", "create", name).splitlines()[-1]


def contents(database: Database) -> Iterator[tuple[str, str]]:
    """All rows of all tables, as text."""
    tables = database.tables()
    assert "mcp_django_session" in tables
    for table in tables:
        for row in database.rows(f"SELECT * FROM {table}"):
            yield table, " ".join(map(str, row))
