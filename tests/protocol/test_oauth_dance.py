"""How a client that knows nothing but an endpoint's URL comes to a token: every request of it, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator
from html import unescape
from json import loads
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client as Browser
from oauth2_provider import cimd
from oauth2_provider.models import get_refresh_token_model

from mcp_django.asgi import Application
from tests.protocol import tokens_of_oauth
from tests.protocol.client import Client, Session
from tests.protocol.entries import Entry, application_now, native_by_default
from tests.protocol.test_oauth import challenge

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


entry = native_by_default


ENDPOINT = "/scoped/mcp"
RESOURCE = f"http://testserver{ENDPOINT}"
CALLBACK = "http://127.0.0.1:51234/callback"
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


@pytest.fixture(autouse=True)
def project_with_oauth(project: None, settings: Settings) -> Iterator[None]:
    settings.ROOT_URLCONF = "tests.protocol.oauth_urls"
    # Whoever must be logged in for every page must still be able to start here.
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    yield
    get_refresh_token_model().objects.all().delete()
    tokens_of_oauth.forget()


@pytest.fixture
def application(project_with_oauth: None, entry: Entry) -> Application:
    """With the middleware of this project; no other test is to have that."""
    return application_now(entry)


class Dancer:
    """A client of one application, and its user's browser."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.browser = Browser(enforce_csrf_checks=True)
        self.verifier = secrets.token_urlsafe(48)
        self.server: dict[str, Any] = {}
        self.client_id = ""

    async def get(self, url: str) -> Any:
        """A JSON document that the server under test has at a URL."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}" == "http://testserver"
        response = await Client(self.application, parts.path).request(
            "GET", headers={"Content-Type": None, "Accept": "application/json"}
        )
        assert response.status == 200, (url, response.body)
        return response.json

    async def discover(self) -> dict[str, Any]:
        """From a refusal to the metadata of the authorization server."""
        refused = challenge(await Client(self.application, ENDPOINT).handshake())
        resource = await self.get(refused["resource_metadata"])
        assert resource["resource"] == RESOURCE
        assert refused["scope"] == "library:read"
        (issuer,) = resource["authorization_servers"]
        place = urlsplit(issuer)
        self.server = await self.get(
            f"{place.scheme}://{place.netloc}/.well-known/oauth-authorization-server{place.path}"
        )
        assert self.server["issuer"] == issuer
        return self.server

    async def register(self) -> None:
        described = {
            "client_name": "A desktop client",
            "redirect_uris": [CALLBACK],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        answer = await self.post(self.server["registration_endpoint"], 201, json=described)
        assert answer["token_endpoint_auth_method"] == "none"
        assert "client_secret" not in answer
        self.client_id = answer["client_id"]

    async def post(self, url: str, status: int = 200, *, json: Any = None, form: Any = None) -> Any:
        """What the authorization server answers, in JSON where there is a body."""
        given: dict[str, Any] = {"content_type": "application/json"} if json else {}
        response = await sync_to_async(Browser().post)(urlsplit(url).path, json or form, **given)
        assert response.status_code == status, response.content
        return loads(response.content) if response.content else None

    async def page(self, **changes: str | None) -> Any:
        """What the user's browser shows at the authorization endpoint."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "state": "the-state",
            "scope": "library:read",
            "resource": RESOURCE,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        given = {name: value for name, value in (asked | changes).items() if value is not None}
        return await sync_to_async(self.browser.get)(
            f"{urlsplit(self.server['authorization_endpoint']).path}?{urlencode(given)}"
        )

    async def log_in(self, name: str = "alice") -> None:
        user, _new = await User.objects.aget_or_create(username=name)
        await sync_to_async(self.browser.force_login)(user)

    async def consent(self, page: Any, **answer: str) -> dict[str, str]:
        """Press a button on the consent page; what the client is told at its redirect URI."""
        hidden = {name: unescape(value) for name, value in HIDDEN.findall(page.content.decode())}
        place = urlsplit(self.server["authorization_endpoint"]).path
        response = await sync_to_async(self.browser.post)(place, hidden | answer)
        assert response.status_code == 302, response.content
        told = urlsplit(response["Location"])
        assert told._replace(query="").geturl() == CALLBACK
        values = {name: value for name, (value,) in parse_qs(told.query).items()}
        assert values.pop("state") == "the-state"
        return values

    async def code(self, **changes: str | None) -> str:
        told = await self.consent(await self.page(**changes), allow="Allow")
        assert told["iss"] == self.server["issuer"]
        return told["code"]

    async def token(self, grant_type: str, form: dict[str, str], status: int = 200) -> Any:
        given = {"grant_type": grant_type, "client_id": self.client_id, **form}
        return await self.post(self.server["token_endpoint"], status, form=given)

    async def exchange(self, code: str, status: int = 200, **changes: str) -> Any:
        form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": self.verifier, "resource": RESOURCE}
        return await self.token("authorization_code", form | changes, status)

    def mcp(self, token: str) -> Client:
        return Client(self.application, ENDPOINT, token=token)


@pytest.fixture
async def dancer(application: Application) -> Dancer:
    """One that has found its way, with its user logged in."""
    made = Dancer(application)
    await made.discover()
    await made.register()
    await made.log_in()
    return made


async def test_from_a_refusal_to_a_call_a_refresh_and_a_revocation(dancer: Dancer) -> None:
    first = await dancer.exchange(await dancer.code())
    assert (first["scope"], first["token_type"]) == ("library:read", "Bearer")
    session = await dancer.mcp(first["access_token"]).open()
    assert (await session.call("whoami"))["user"] == "alice"

    second = await dancer.token("refresh_token", {"refresh_token": first["refresh_token"], "resource": RESOURCE})
    assert second["access_token"] != first["access_token"]
    assert (await session.request("ping")).status == 401
    refreshed = session.of(dancer.mcp(second["access_token"]))
    assert await refreshed.call("whoami") == {"user": "alice", "restored": False}

    revoke = dancer.server["revocation_endpoint"]
    stream = await refreshed.listen()
    await dancer.post(revoke, form={"token": second["access_token"], "client_id": dancer.client_id})
    assert await stream.rest() == []
    assert (await refreshed.request("ping")).status == 401


async def test_the_authorization_server_says_what_clients_look_for(dancer: Dancer) -> None:
    server = dancer.server
    assert "none" in server["token_endpoint_auth_methods_supported"]
    assert server["code_challenge_methods_supported"] == ["S256"]
    assert server["response_types_supported"] == ["code"]
    assert server["client_id_metadata_document_supported"] is True
    assert server["authorization_response_iss_parameter_supported"] is True
    assert not {"implicit", "password"} & set(server["grant_types_supported"])


async def test_more_scopes_are_got_by_coming_again(dancer: Dancer) -> None:
    session: Session = await dancer.mcp((await dancer.exchange(await dancer.code()))["access_token"]).open()
    refused = await session.post(session.tool("report"))
    assert refused.status == 403
    more = await dancer.exchange(await dancer.code(scope=challenge(refused)["scope"]))
    assert await session.of(dancer.mcp(more["access_token"])).call("report") == {"result": "as you may"}


async def test_a_token_that_was_asked_for_without_a_resource_opens_nothing(dancer: Dancer) -> None:
    code = await dancer.code(resource=None)
    form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": dancer.verifier}
    made = await dancer.token("authorization_code", form)
    refused = await dancer.mcp(made["access_token"]).handshake()
    assert refused.status == 401
    assert RESOURCE in challenge(refused)["error_description"]


async def test_a_code_for_one_resource_makes_no_token_for_another(dancer: Dancer) -> None:
    refused = await dancer.exchange(await dancer.code(), 400, resource="http://testserver/guarded/mcp")
    assert refused["error"] == "invalid_target"


async def test_client_credentials_open_what_they_are_asked_for(dancer: Dancer) -> None:
    robot = {"client_name": "A robot", "grant_types": ["client_credentials"], "redirect_uris": []}
    registered = await dancer.post(dancer.server["registration_endpoint"], 201, json=robot)
    dancer.client_id = registered["client_id"]
    made = await dancer.token(
        "client_credentials",
        {"client_secret": registered["client_secret"], "resource": RESOURCE, "scope": "library:read"},
    )
    assert (await (await dancer.mcp(made["access_token"]).open()).call("whoami"))["user"] == ""


async def test_registering_gives_no_token_that_opens_an_endpoint(dancer: Dancer) -> None:
    described = {"client_name": "Nosy", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    answer = await dancer.post(dancer.server["registration_endpoint"], 201, json=described)
    assert (await dancer.mcp(answer["registration_access_token"]).handshake()).status == 401


class TestConsentPage:
    async def test_asks_who_is_there_first(self, dancer: Dancer) -> None:
        await sync_to_async(dancer.browser.logout)()
        page = await dancer.page()
        assert page.status_code == 302
        assert page["Location"].startswith("/accounts/login/?next=/o/authorize/")
        login = (await sync_to_async(dancer.browser.get)(page["Location"])).content.decode()
        assert "A program asks for access" in login
        assert 'name="password"' in login

    async def test_says_who_asks_for_what_where_and_where_the_answer_goes(self, dancer: Dancer) -> None:
        text = (await dancer.page(scope="library:read library:report")).content.decode()
        for said in (
            "A desktop client",
            "alice",
            "See who you are",
            "Read the report on loans",
            RESOURCE,
            "anybody may have chosen that name",
            "127.0.0.1:51234",
            "a program on this computer",
        ):
            assert said in text
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=", text)

    async def test_says_which_host_publishes_a_client_that_is_named_by_a_url(self, dancer: Dancer) -> None:
        dancer.client_id = "https://client.example/about.json"
        await sync_to_async(tokens_of_oauth.application)(dancer.client_id)
        text = (await dancer.page(redirect_uri="http://127.0.0.1/callback")).content.decode()
        assert "is published by <code>client.example</code>" in text

    async def test_says_that_a_request_without_a_resource_is_of_no_use(self, dancer: Dancer) -> None:
        assert "no server in particular" in (await dancer.page(resource=None)).content.decode()

    async def test_escapes_what_a_client_calls_itself(self, dancer: Dancer) -> None:
        described = {"client_name": "<script>", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
        dancer.client_id = (await dancer.post(dancer.server["registration_endpoint"], 201, json=described))["client_id"]
        text = (await dancer.page()).content.decode()
        assert "<script" not in text
        assert "&lt;script&gt;" in text

    async def test_cancelling_gives_no_code(self, dancer: Dancer) -> None:
        told = await dancer.consent(await dancer.page())
        assert told["error"] == "access_denied"
        assert "code" not in told

    @pytest.mark.parametrize(
        "changes",
        [{"client_id": "nobody"}, {"redirect_uri": "https://evil.example/callback"}],
        ids=["unknown client", "unknown redirect"],
    )
    async def test_a_request_that_cannot_be_trusted_is_not_redirected(
        self, dancer: Dancer, changes: dict[str, str | None]
    ) -> None:
        page = await dancer.page(**changes)
        assert page.status_code == 400
        assert "This request cannot be answered" in page.content.decode()

    async def test_a_request_without_a_challenge_gets_no_page(self, dancer: Dancer) -> None:
        page = await dancer.page(code_challenge=None, code_challenge_method=None)
        assert page.status_code == 302
        assert "error=invalid_request" in page["Location"]

    async def test_a_challenge_that_hides_nothing_gets_no_code(self, dancer: Dancer) -> None:
        told = await dancer.consent(await dancer.page(code_challenge_method="plain"), allow="Allow")
        assert told["error"] == "invalid_request"
        assert "code" not in told


class TestMetadataDocuments:
    """Clients that are named by the URL of a document about them, and were never registered."""

    CLIENT = "https://client.example/about.json"

    @pytest.fixture
    def fetched(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The URLs that were fetched; there is one document."""
        cache.clear()
        urls: list[str] = []

        def fetch(fetcher: Any, client_id: str) -> tuple[dict[str, Any], int]:
            urls.append(client_id)
            about = {
                "client_id": client_id,
                "client_name": "A client with a document",
                "redirect_uris": [CALLBACK],
                "grant_types": ["authorization_code", "refresh_token"],
                "token_endpoint_auth_method": "none",
            }
            return about, 300

        monkeypatch.setattr(cimd.SafeMetadataFetcher, "fetch", fetch)
        return urls

    async def test_such_a_client_gets_a_token_by_consent(self, dancer: Dancer, fetched: list[str]) -> None:
        dancer.client_id = self.CLIENT
        page = (await dancer.page()).content.decode()
        assert "A client with a document" in page
        assert "client.example" in page
        made = await dancer.exchange(await dancer.code())
        session = await dancer.mcp(made["access_token"]).open()
        assert (await session.call("whoami"))["user"] == "alice"
        assert set(fetched) == {self.CLIENT}

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[fd00::1]"])
    async def test_nothing_is_fetched_from_the_servers_own_network(
        self, dancer: Dancer, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        cache.clear()

        def connect(*args: Any, **kwargs: Any) -> None:
            raise AssertionError(f"a connection to {kwargs} was made")

        monkeypatch.setattr(cimd.urllib3, "HTTPSConnectionPool", connect)
        dancer.client_id = f"https://{host}/about.json"
        page = await dancer.page()
        assert page.status_code == 400
        assert "Location" not in page
