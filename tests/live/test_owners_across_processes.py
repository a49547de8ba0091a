"""Two processes, one database: what somebody has is theirs on both, and what ends it ends it on both."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.live.databases import Database
from tests.live.fixtures import Pair
from tests.live.measuring import report
from tests.live.servers import manage
from tests.live.streams import Stream, is_answer
from tests.live.wire import Client

pytestmark = pytest.mark.live

MEMBERS = "/members/mcp"
UNKNOWN = "nobody-has-this-id-nobody-has-this-id-12345"
# Half a second is what a poll takes; what a busy machine takes is reported rather than judged.
SOON = 10.0

MAKE = """
import json
from django.contrib.auth.models import User
from django.test import Client
from mcp_django.tokens.models import Token
tokens = {{}}
for name in {names}:
    _row, tokens[name] = Token.objects.issue(User.objects.create_user(name + "{suffix}"))
browser = Client()
browser.force_login(User.objects.create_superuser("chief{suffix}"))
print(json.dumps([tokens, browser.cookies["sessionid"].value]))
"""
# An update sends no signal.
DEACTIVATE = """
import time
from django.contrib.auth.models import User
saved = User.objects.get(username="saved{suffix}")
saved.is_active = False
saved.save()
User.objects.filter(username="updated{suffix}").update(is_active=False)
print(time.time())
"""
NAMES = ["alice", "bob", "revoked", "saved", "updated"]


class People(NamedTuple):
    """Users, each with a token, and the login of somebody who may see the admin."""

    suffix: str
    tokens: dict[str, str]
    login: str


@pytest.fixture(scope="module")
def people(pair: Pair, database: Database) -> People:
    suffix = f"-{uuid.uuid4().hex[:8]}"
    made = shell(database, MAKE.format(names=NAMES, suffix=suffix))
    tokens, login = json.loads(made.splitlines()[-1])
    return People(suffix, tokens, login)


@pytest.fixture
def streams() -> Iterator[ExitStack]:
    """Streams that end with the test."""
    with ExitStack() as stack:
        yield stack


def shell(database: Database, code: str) -> str:
    """Run code in a management command: a process that is no server."""
    return manage(database.url, "shell", "--verbosity", "0", "-c", code)


def listen(client: Client, streams: ExitStack) -> Stream:
    """A GET stream that has begun."""
    stream = streams.enter_context(client.listen())
    assert stream.status() == 200
    assert stream.frame() is not None
    return stream


def walk(client: Client, streams: ExitStack) -> Stream:
    """The stream of a call that takes a minute yet, at its first step."""
    stream = streams.enter_context(client.start("slow_progress", "steps", steps=60, seconds=60))
    assert stream.next()["params"]["progress"] == 1
    return stream


def until_ended(open_streams: list[Stream]) -> tuple[float, list[list[Any]]]:
    """When the last of these streams has ended, and the answers that came in them until then."""
    rest = [[message for message in stream.rest() if is_answer(message)] for stream in open_streams]
    return time.time(), rest


def ended_by(act: Callable[[], float], what: str, open_streams: list[Stream], database: Database) -> list[list[Any]]:
    """Do what ends some streams; the answers that came in them until then.

    Args:
        act: returns when it was done, by the machine's clock: management commands take a while to start and to end.
    """
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(until_ended, open_streams)
        done_at = act()
        ended_at, rest = ending.result()
    assert report(f"streams end on two processes after {what}", [ended_at - done_at], database) < SOON
    return rest


def told(client: Client) -> list[Any]:
    """All that an id tells whoever tries it."""
    answers = [
        client.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        client.send("GET"),
        client.delete(),
    ]
    ignored = {"date", "server"}
    return [
        (answer.status_code, answer.content, [each for each in answer.headers.multi_items() if each[0] not in ignored])
        for answer in answers
    ]


def statuses(client: Client) -> list[int]:
    return [status for status, _body, _headers in told(client)]


def test_what_was_opened_on_one_is_its_owners_on_the_other_and_unknown_to_others(pair: Pair, people: People) -> None:
    alice = Client(pair.a, path=MEMBERS, token=people.tokens["alice"]).initialize()
    assert alice.call("whoami") == {"user": f"alice{people.suffix}"}
    assert alice.call("count") == {"value": 1}
    # Nobody has brought the session to life on the other process when the others come.
    for server in (pair.b, pair.a):
        bob, nobody = alice.at(server), alice.at(server)
        bob.token, nobody.token = people.tokens["bob"], None
        server.secrets.add(people.tokens["bob"])
        found = told(bob)
        bob.session_id = UNKNOWN
        assert found == told(bob)
        assert statuses(bob) == [404, 404, 404]
        assert statuses(nobody) == [401, 401, 401]
    assert alice.at(pair.b).call("count") == {"value": 2}
    assert alice.call("count") == {"value": 3}


def test_a_token_that_is_revoked_ends_its_streams_and_is_refused_on_both(
    pair: Pair, people: People, database: Database, streams: ExitStack
) -> None:
    clients = [Client(server, path=MEMBERS, token=people.tokens["revoked"]).initialize() for server in pair]
    on_a, on_b = clients[0], clients[0].at(pair.b)
    open_streams = [walk(on_a, streams), listen(on_b, streams), listen(clients[1], streams)]
    other = Client(pair.b, path=MEMBERS, token=people.tokens["alice"]).initialize()
    of_other = listen(other, streams)

    def revoke() -> float:
        command = f'call_command("mcptoken", "revoke", "--user", "revoked{people.suffix}")'
        code = f"import time; from django.core.management import call_command; {command}; print(time.time())"
        said, done_at = shell(database, code).splitlines()
        assert said == f"Tokens of revoked{people.suffix} revoked: 1."
        return float(done_at)

    # The call goes on, and nobody is there to hear how it ends.
    assert ended_by(revoke, "a token was revoked", open_streams, database) == [[], [], []]
    for client in (on_a, on_b, clients[1]):
        assert statuses(client) == [401, 401, 401]
    assert of_other.arrived() == []
    assert not of_other.ended
    assert other.call("whoami") == {"user": f"alice{people.suffix}"}


def test_a_user_who_is_deactivated_is_refused_and_has_no_stream_on_either(
    pair: Pair, people: People, database: Database, streams: ExitStack
) -> None:
    clients = []
    for name in ("saved", "updated"):
        on_a = Client(pair.a, path=MEMBERS, token=people.tokens[name]).initialize()
        clients += [on_a, on_a.at(pair.b)]
    open_streams = [stream for on in clients[::2] for stream in (walk(on, streams), listen(on.at(pair.b), streams))]

    def deactivate() -> float:
        return float(shell(database, DEACTIVATE.format(suffix=people.suffix)))

    of_saved, _listening, *of_updated = ended_by(deactivate, "users were deactivated", open_streams, database)
    # With save() the sessions end, and the call with them, unless its stream is closed before anybody has seen that.
    assert [message for message in of_saved if "error" not in message] == []
    assert of_updated == [[], []]
    for client in clients:
        assert statuses(client) == [401, 401, 401]


def test_a_session_that_is_ended_in_the_admin_has_no_stream_on_either(
    pair: Pair, people: People, database: Database, streams: ExitStack
) -> None:
    on_a = Client(pair.a, path=MEMBERS, token=people.tokens["bob"]).initialize()
    on_b = on_a.at(pair.b)
    open_streams = [walk(on_a, streams), listen(on_b, streams)]
    another = Client(pair.b, path=MEMBERS, token=people.tokens["bob"]).initialize()

    assert on_a.session_id
    digest = hashlib.sha256(on_a.session_id.encode()).hexdigest()
    csrf = "c" * 32

    def end() -> float:
        response = pair.b.http.post(
            "/admin/mcp_django/session/",
            data={"action": "end_sessions", "index": "0", "_selected_action": [digest], "post": "yes"},
            headers={"Cookie": f"sessionid={people.login}; csrftoken={csrf}", "X-CSRFToken": csrf},
        )
        assert response.status_code == 302
        return time.time()

    ended_by(end, "a session was ended in the admin", open_streams, database)
    for client in (on_a, on_b):
        assert statuses(client) == [404, 404, 404]
    assert another.call("whoami") == {"user": f"bob{people.suffix}"}
