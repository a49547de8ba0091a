"""OAuth tokens: which ones open which endpoint, what the others are told, and what becomes of a session."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from oauth2_provider.models import get_application_model

from mcp_django.asgi import Application
from mcp_django.auth import oauth_tokens
from mcp_django.models import Session as Row
from mcp_django.models import digest_of
from tests.protocol import tokens_of_oauth
from tests.protocol.client import Client, Response
from tests.protocol.entries import native_by_default
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import DjangoAssertNumQueries, Settings

pytestmark = pytest.mark.anyio

entry = native_by_default

GUARDED, SCOPED = "/guarded/mcp", "/scoped/mcp"
RESOURCE = tokens_of_oauth.RESOURCE
METADATA = "http://testserver/.well-known/oauth-protected-resource"
PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

token = sync_to_async(tokens_of_oauth.token)


@pytest.fixture(autouse=True)
def project_with_oauth(project: None, settings: Settings) -> Iterator[None]:
    settings.ROOT_URLCONF = "tests.protocol.oauth_urls"
    yield
    tokens_of_oauth.forget()


def challenge(response: Response) -> dict[str, str]:
    """The parameters of the one challenge of a refusal."""
    header = response.header("www-authenticate")
    assert header is not None
    scheme, _, parameters = header.partition(" ")
    assert scheme == "Bearer"
    found = PARAMETER.findall(parameters)
    assert ", ".join(f'{name}="{value}"' for name, value in found) == parameters
    return dict(found)


async def entering(application: Application, raw: str, path: str = GUARDED, **more: Any) -> Response:
    """What a token's bearer is told who opens a session."""
    return await Client(application, path, token=raw, **more).handshake()


class TestValid:
    async def test_a_token_for_the_endpoint_opens_it_to_its_user(self, application: Application) -> None:
        session = await Client(application, GUARDED, token=await token()).open()
        assert await session.call("whoami") == {"user": "alice", "restored": False}
        row = await Row.objects.select_related("owner").aget()
        assert row.owner is not None
        assert row.owner.username == "alice"
        assert row.principal == f"user:{row.owner.pk} client:desktop"

    async def test_client_credentials_open_it_to_the_client_alone(self, application: Application) -> None:
        session = await Client(application, GUARDED, token=await token(None, "robot")).open()
        assert (await session.call("whoami"))["user"] == ""
        row = await Row.objects.aget()
        assert (row.owner_id, row.principal) == (None, "client:robot")

    @pytest.mark.parametrize(
        "resource",
        [
            ["http://testserver/guarded/mcp/"],
            ["HTTP://TestServer:80/guarded/mcp"],
            ["https://elsewhere.example/mcp", RESOURCE],
        ],
        ids=["trailing slash", "case and port", "one of several"],
    )
    async def test_the_resource_may_be_written_in_other_ways(self, application: Application, resource: Any) -> None:
        assert (await entering(application, await token(resource=resource))).status == 200

    async def test_the_endpoint_may_be_called_with_a_trailing_slash(self, application: Application) -> None:
        assert (await entering(application, await token(), GUARDED + "/")).status == 200

    async def test_the_scheme_is_taken_in_any_case(self, application: Application) -> None:
        raw = await token()
        client = Client(application, GUARDED)
        assert (await client.handshake(headers={"Authorization": f"bEARER  {raw}"})).status == 200

    async def test_behind_a_proxy_the_resource_is_the_url_that_clients_see(
        self, application: Application, settings: Settings
    ) -> None:
        settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
        raw = await token(resource=["https://testserver/prefix/guarded/mcp"])
        client = Client(application, GUARDED, token=raw, root_path="/prefix")
        assert (await client.handshake(headers={"X-Forwarded-Proto": "https"})).status == 200
        refused = await client.handshake(headers={"X-Forwarded-Proto": "http"})
        assert refused.status == 401
        assert "resource=http://testserver/prefix/guarded/mcp" in challenge(refused)["error_description"]

    async def test_a_captured_part_of_the_path_belongs_to_the_resource(self, application: Application) -> None:
        raw = await token(resource=["http://testserver/tenants/one/mcp"])
        assert (await entering(application, raw, "/tenants/one/mcp")).status == 200
        assert (await entering(application, raw, "/tenants/two/mcp")).status == 401

    async def test_it_is_taken_where_anonymous_callers_are_too(self, application: Application) -> None:
        client = Client(application, "/both/mcp", token=await token(resource=["http://testserver/both/mcp"]))
        assert (await (await client.open()).call("whoami"))["user"] == "alice"
        assert (await (await Client(application, "/both/mcp").open()).call("whoami"))["user"] == ""


class TestRefused:
    @pytest.mark.parametrize(
        "resource",
        [
            [],
            ["http://testserver"],
            ["http://testserver/"],
            ["http://testserver/guarded"],
            ["http://testserver/guarded/mcp/more"],
            ["http://testserver/guarded/mcp2"],
            ["http://testserver/scoped/mcp"],
            ["https://testserver/guarded/mcp"],
            ["http://testserver:8000/guarded/mcp"],
            ["http://testserver.evil.example/guarded/mcp"],
            ["http://testserver@evil.example/guarded/mcp"],
            ["http://testserver/guarded/mcp?x"],
            ["http://testserver/guarded/mcp#x"],
            ["urn:guarded"],
            [""],
        ],
        ids=str,
    )
    async def test_a_token_for_another_resource_or_none_is_told_which_to_ask_for(
        self, application: Application, resource: Any
    ) -> None:
        refused = await entering(application, await token(resource=resource))
        assert refused.status == 401
        told = challenge(refused)
        assert told["error"] == "invalid_token"
        assert f"resource={RESOURCE} " in told["error_description"]
        assert told["resource_metadata"] == f"{METADATA}/guarded/mcp"

    async def test_the_rest_get_one_answer(self, application: Application) -> None:
        @sync_to_async
        def inactive() -> str:
            raw = tokens_of_oauth.token("bob")
            User.objects.filter(username="bob").update(is_active=False)
            return raw

        revoked = await token()
        await tokens_of_oauth.row_of(revoked).adelete()
        answers = [
            await entering(application, raw)
            for raw in [
                "never-issued",
                "",
                "é",
                revoked,
                await inactive(),
                await token(lives=timedelta(seconds=-1)),
                await token(client=None),
            ]
        ]
        assert {answer.status for answer in answers} == {401}
        assert len({(answer.body, str(answer.headers)) for answer in answers}) == 1
        assert challenge(answers[0])["error"] == "invalid_token"

    async def test_an_application_that_says_it_is_not_usable_is_not(
        self, application: Application, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def is_usable(self: Any, request: Any) -> bool:
            asked.append(request.uri)
            return str(self.name) != "Desktop"

        monkeypatch.setattr(get_application_model(), "is_usable", is_usable)
        for remembered in (oauth_tokens.asks, oauth_tokens.columns, oauth_tokens.selection):
            monkeypatch.setattr(oauth_tokens, remembered.__name__, remembered.__wrapped__)
        assert (await entering(application, await token())).status == 401
        assert (await entering(application, await token(client="robot"))).status == 200
        assert asked == [RESOURCE, RESOURCE]

    async def test_without_a_token_the_challenge_names_no_error(self, application: Application) -> None:
        refused = await Client(application, GUARDED).handshake()
        assert refused.status == 401
        assert challenge(refused) == {"resource_metadata": f"{METADATA}/guarded/mcp"}

    async def test_the_challenge_names_the_scopes_that_everybody_needs(self, application: Application) -> None:
        told = challenge(await Client(application, SCOPED).handshake())
        assert told == {"scope": "library:read", "resource_metadata": f"{METADATA}/scoped/mcp"}

    async def test_a_token_in_the_query_is_none(self, application: Application) -> None:
        exchange = Client(application, GUARDED)
        raw = await token()
        message = json.dumps(exchange.message("ping")).encode()
        refused = await exchange.request("POST", message, query=f"access_token={raw}".encode())
        assert refused.status == 401
        assert "error" not in challenge(refused)

    async def test_other_schemes_are_left_to_others(self, application: Application) -> None:
        client = Client(application, GUARDED)
        refused = await client.handshake(headers={"Authorization": f"Basic {await token()}"})
        assert "error" not in challenge(refused)

    @pytest.mark.parametrize("path", ["/guarded/mcp/", "/slash-only/", "/tenants/a b/mcp"])
    async def test_the_metadata_that_a_challenge_names_are_there(self, application: Application, path: str) -> None:
        told = challenge(await Client(application, path).handshake())
        place = told["resource_metadata"].removeprefix("http://testserver")
        assert place == "/.well-known/oauth-protected-resource" + path.rstrip("/").replace(" ", "%20")
        response = await Client(application, place.replace("%20", " ")).request("GET")
        assert response.json["resource"] == "http://testserver" + path.rstrip("/").replace(" ", "%20")


class TestScopes:
    async def test_a_server_refuses_a_token_without_its_scopes_and_names_all_it_should_have(
        self, application: Application
    ) -> None:
        raw = await token(resource=["http://testserver/scoped/mcp"], scope="library:report")
        refused = await entering(application, raw, SCOPED)
        assert refused.status == 403
        told = challenge(refused)
        assert (told["error"], told["scope"]) == ("insufficient_scope", "library:read library:report")
        assert told["resource_metadata"] == f"{METADATA}/scoped/mcp"

    async def test_a_tool_that_only_lacks_a_scope_is_listed_and_asks_for_it(self, application: Application) -> None:
        session = await Client(application, GUARDED, token=await token()).open()
        listed = {tool["name"] for tool in (await session.request("tools/list")).result["tools"]}
        assert listed == {"whoami", "progress", "report"}
        refused = await session.post(session.tool("report"))
        assert refused.status == 403
        told = challenge(refused)
        assert told["error"] == "insufficient_scope"
        assert told["scope"] == "library:read library:report"
        assert told["resource_metadata"] == f"{METADATA}/guarded/mcp"

        better = Client(application, GUARDED, token=await token(scope="library:read library:report"))
        assert await session.of(better).call("report") == {"result": "as you may"}

    async def test_a_permission_that_is_lacking_is_no_matter_of_scopes(self, application: Application) -> None:
        session = await Client(application, GUARDED, token=await token(scope="library:report")).open()
        hidden = await session.post(session.tool("secret_report"))
        unknown = await session.post(session.tool("no_such_tool"))
        assert hidden.status == unknown.status == 200
        assert hidden.body.replace(b"secret_report", b"") == unknown.body.replace(b"no_such_tool", b"").replace(
            str(unknown.json["id"]).encode(), str(hidden.json["id"]).encode(), 1
        )

    async def test_permissions_are_asked_of_the_user_of_the_token(self, application: Application) -> None:
        @sync_to_async
        def permit() -> None:
            permission, _new = Permission.objects.get_or_create(
                codename="view_report", content_type=Permission.objects.filter(codename="view_loan").get().content_type
            )
            User.objects.get(username="alice").user_permissions.add(permission)

        raw = await token(scope="library:report")
        await permit()
        session = await Client(application, GUARDED, token=raw).open()
        assert await session.call("secret_report") == {"result": "as few may"}


class TestOwners:
    async def test_a_new_token_of_the_same_client_and_user_goes_on_with_the_session(
        self, application: Application
    ) -> None:
        first = await token()
        session = await Client(application, GUARDED, token=first).open()
        await tokens_of_oauth.row_of(first).adelete()
        refreshed = session.of(Client(application, GUARDED, token=await token()))
        assert await refreshed.call("whoami") == {"user": "alice", "restored": False}

    @pytest.mark.parametrize(
        ("user", "client"),
        [("alice", "phone"), ("bob", "desktop"), (None, "desktop")],
        ids=["another client", "another user", "the client itself"],
    )
    async def test_everybody_elses_session_is_unknown(
        self, application: Application, user: str | None, client: str
    ) -> None:
        session = await Client(application, GUARDED, token=await token()).open()
        other = session.of(Client(application, GUARDED, token=await token(user, client)))
        foreign = await other.request("ping")
        other.id = "never-given-out"
        unknown = await other.request("ping")
        assert foreign.status == unknown.status == 404
        assert foreign.body == unknown.body
        assert foreign.headers == unknown.headers
        assert (await session.request("ping")).status == 200


class TestOpenStreams:
    async def test_a_stream_ends_when_its_token_is_revoked(self, application: Application, stage: Stage) -> None:
        gate = stage.hold("progress")
        raw = await token()
        session = await Client(application, GUARDED, token=raw).open()
        stream = await session.stream("progress")
        assert (await stream.message())["params"]["progress"] == 1
        await tokens_of_oauth.row_of(raw).adelete()
        assert await stream.rest() == []
        assert (await session.request("ping")).status == 401

        # The call is its owner's, who comes back with another token.
        gate.open()
        again = session.of(Client(application, GUARDED, token=await token()))
        (message,) = await (await again.listen(stream.last_id)).rest()
        assert message["result"]["structuredContent"] == {"result": "done"}

    @pytest.mark.parametrize(
        "change",
        [{"resource": ["http://testserver/scoped/mcp"]}, {"scope": ""}, {"expires": "2020-01-01T00:00:00Z"}],
        ids=["another resource", "fewer scopes", "expired"],
    )
    async def test_a_stream_ends_when_its_token_is_made_less(
        self, application: Application, change: dict[str, Any]
    ) -> None:
        raw = await token()
        session = await Client(application, GUARDED, token=raw).open()
        stream = await session.listen()
        await tokens_of_oauth.row_of(raw).aupdate(**change)
        assert await stream.rest() == []

    async def test_a_stream_ends_when_its_user_is_no_longer_active(self, application: Application) -> None:
        session = await Client(application, GUARDED, token=await token()).open()
        stream = await session.listen()
        await User.objects.filter(username="alice").aupdate(is_active=False)
        assert await stream.rest() == []


@pytest.mark.django_db(transaction=True)
class TestReading:
    def test_all_that_wait_are_read_with_one_query(self, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        raws = [tokens_of_oauth.token(user) for user in ("alice", "bob", None)]
        wanted = [oauth_tokens.Wanted(digest_of(raw), RESOURCE) for raw in [*raws, "unknown", raws[0]]]
        with django_assert_num_queries(1):
            found = oauth_tokens.read(wanted)
            names = [None if each is None or each.user is None else each.user.username for each in found]
            backs = [each.user.pk for each in found if each is not None and each.user is not None]
        assert names == ["alice", "bob", None, None, "alice"]
        assert backs == [each.user_pk for each in found if each is not None and each.user is not None]

    def test_no_user_is_made_before_somebody_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def made(*args: Any) -> None:
            raise AssertionError("A user was made.")

        raw = tokens_of_oauth.token()
        with monkeypatch.context() as patched:
            patched.setattr(User, "from_db", made)
            (found,) = oauth_tokens.read([oauth_tokens.Wanted(digest_of(raw), RESOURCE)])
        assert found is not None
        assert found.holds()


async def test_a_database_that_is_away_is_503_and_no_401(
    application: Application, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    raw = await token()

    def away(items: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(oauth_tokens.lane, "_work", away)
    refused = await entering(application, raw)
    assert refused.status == 503
    assert refused.header("retry-after")
