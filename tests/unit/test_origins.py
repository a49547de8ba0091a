"""Hosts, origins, and what a browser page of another origin may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import example, given

from mcp_django import http, origins
from mcp_django.http import Request
from tests.unit.requests_by_hand import HOST, latin_text, not_made, refusal_of, request, status_of


def host_of(*headers: tuple[str, str]) -> str:
    return origins.host_of(request(*headers))


class TestHost:
    @pytest.fixture(autouse=True)
    def hosts(self) -> Iterator[None]:
        with override_settings(ALLOWED_HOSTS=["api.example.com", ".wild.example", "127.0.0.1", "[::1]"]):
            yield

    @pytest.mark.parametrize(
        "host",
        [
            "api.example.com",
            "API.example.com",
            "api.example.com:8000",
            "api.example.com.",
            "wild.example",
            "a.b.wild.example:443",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
        ],
    )
    def test_that_is_allowed_passes(self, host: str) -> None:
        assert host_of(("Host", host)) == host

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "example.com",
            "evil.example",
            "api.example.com.evil.example",
            "xapi.example.com",
            "notwild.example",
            "127.0.0.2",
            "127.0.0.1.evil.example",
            "[::2]:8000",
            "::1",
            "[::1",
            "user@api.example.com",
            "api.example.com@evil.example",
            "api.example.com/path",
            "api.example.com:port",
            "api.example.com evil.example",
            "api.example.com, evil.example",
            "*",
            ".",
            "ap\xed.example.com",
        ],
    )
    def test_that_is_not_allowed_is_400_and_says_where_to_allow_it(self, host: str) -> None:
        response = refusal_of(host_of, ("Host", host))
        assert response.status == 400
        assert b"ALLOWED_HOSTS" in response.body

    def test_that_is_missing_or_comes_twice_is_400(self) -> None:
        assert refusal_of(host_of).status == 400
        assert refusal_of(host_of, ("Host", "127.0.0.1"), ("Host", "127.0.0.1")).status == 400

    @given(latin_text)
    def test_of_any_text_is_taken_or_refused(self, host: str) -> None:
        assert status_of(host_of, ("Host", host)) in (0, 400)

    def test_is_the_proxys_only_if_the_project_says_so(self) -> None:
        headers = [("Host", "internal"), ("X-Forwarded-Host", "api.example.com")]
        assert refusal_of(host_of, *headers).status == 400
        with override_settings(USE_X_FORWARDED_HOST=True):
            assert host_of(*headers) == "api.example.com"
            assert host_of(("Host", "api.example.com")) == "api.example.com"
            assert refusal_of(host_of, ("Host", "api.example.com"), ("X-Forwarded-Host", "evil.example")).status == 400

    @override_settings(USE_X_FORWARDED_HOST=True)
    def test_of_the_proxy_must_not_come_twice_either(self) -> None:
        headers = [("Host", "internal"), ("X-Forwarded-Host", "api.example.com"), ("X-Forwarded-Host", "evil.example")]
        assert refusal_of(host_of, *headers).status == 400

    @override_settings(ALLOWED_HOSTS=[], DEBUG=True)
    @pytest.mark.parametrize("host", ["localhost:8000", "sub.localhost", "127.0.0.1", "[::1]:8000"])
    def test_of_this_machine_passes_under_debug_without_allowed_hosts(self, host: str) -> None:
        assert host_of(("Host", host)) == host
        assert refusal_of(host_of, ("Host", "evil.example")).status == 400

    @override_settings(ALLOWED_HOSTS=[], DEBUG=False)
    def test_of_this_machine_is_refused_in_production_without_allowed_hosts(self) -> None:
        assert refusal_of(host_of, ("Host", "localhost")).status == 400


def allowed(origin: str, host: str = HOST, *, secure: bool = False) -> bool:
    return origins.origin_allowed(origin, host, secure=secure)


class TestOrigin:
    def test_of_the_same_host_port_and_scheme_is_allowed(self) -> None:
        assert allowed("http://testserver")
        assert allowed("http://testserver:8000", "testserver:8000")
        assert allowed("https://testserver", secure=True)
        assert allowed("http://[::1]:8000", "[::1]:8000")

    @pytest.mark.parametrize(
        "origin",
        [
            "null",
            "",
            "testserver",
            "https://testserver",
            "http://testserver:8000",
            "http://testserver.evil.example",
            "http://eviltestserver",
            "http://testserver@evil.example",
            "http://evil.example#testserver",
            "http://[::1",
            "http://[::1]:8000",
            "file://",
            "chrome-extension://testserver",
        ],
    )
    def test_of_another_host_port_or_scheme_is_not(self, origin: str) -> None:
        assert not allowed(origin)

    @override_settings(MCP_DJANGO_ALLOWED_ORIGINS=["https://app.example", "http://localhost:6274"])
    def test_named_in_allowed_origins_is_allowed_exactly_so(self) -> None:
        assert allowed("https://app.example")
        assert allowed("http://localhost:6274")
        assert not allowed("http://app.example")
        assert not allowed("https://app.example:8443")
        assert not allowed("https://sub.app.example")
        assert not allowed("http://localhost:6275")

    @override_settings(CSRF_TRUSTED_ORIGINS=["https://trusted.example", "https://*.wild.example"])
    @pytest.mark.parametrize(
        ("origin", "expected"),
        [
            ("https://trusted.example", True),
            ("https://sub.trusted.example", False),
            ("http://trusted.example", False),
            ("https://a.wild.example", True),
            ("https://a.b.wild.example", True),
            ("http://a.wild.example", False),
            ("https://a.wild.example:8443", False),
            ("https://evilwild.example", False),
            ("https://a.wild.example.evil.example", False),
            ("https://evil.example/.wild.example", False),
            ("null", False),
        ],
    )
    def test_trusted_for_csrf_is_allowed_as_django_understands_it(self, origin: str, expected: bool) -> None:
        assert allowed(origin) is expected

    @override_settings(CSRF_TRUSTED_ORIGINS=["http://*.wild.example:8443"])
    def test_trusted_by_a_wildcard_with_a_port_needs_that_port(self) -> None:
        assert allowed("http://a.wild.example:8443")
        assert not allowed("http://a.wild.example")

    @given(latin_text)
    @example("http://[")
    @example("https://℀.wild.example")
    @override_settings(CSRF_TRUSTED_ORIGINS=["https://*.wild.example"])
    def test_of_any_text_is_allowed_or_not(self, origin: str) -> None:
        assert allowed(origin) in (True, False)


def checked(*headers: tuple[str, str], **meta: Any) -> str | None:
    return origins.check_host_and_origin(request(*headers, **meta))


class TestHostAndOrigin:
    def test_without_an_origin_no_browser_page_asked(self) -> None:
        assert checked(("Host", HOST)) is None

    def test_give_the_origin_for_the_answers_headers(self) -> None:
        assert checked(("Host", HOST), ("Origin", "http://testserver")) == "http://testserver"

    def test_a_foreign_origin_is_403_and_says_where_to_allow_it(self) -> None:
        response = refusal_of(checked, ("Host", HOST), ("Origin", "https://evil.example"))
        assert response.status == 403
        assert b"MCP_DJANGO_ALLOWED_ORIGINS" in response.body
        assert b"evil.example" not in response.body

    def test_an_origin_that_comes_twice_is_403(self) -> None:
        same = ("Origin", "http://testserver")
        assert refusal_of(checked, ("Host", HOST), same, same).status == 403

    def test_a_wrong_host_is_said_first(self) -> None:
        assert refusal_of(checked, ("Host", "evil.example"), ("Origin", "http://evil.example")).status == 400

    def test_the_scheme_is_the_proxys_if_the_project_says_so(self) -> None:
        headers = [("Host", HOST), ("Origin", "https://testserver")]
        proxied = {"HTTP_X_FORWARDED_PROTO": "https"}
        assert refusal_of(lambda: checked(*headers, **proxied)).status == 403
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            assert checked(*headers, **proxied) == "https://testserver"

    def test_django_is_not_asked_for_a_request_without_origin(self) -> None:
        assert origins.check_host_and_origin(Request("POST", [(b"host", HOST.encode())], b"", not_made)) is None


class TestCrossOrigin:
    def test_a_browser_page_may_read_the_session_id_and_nobody_caches_it_for_another(self) -> None:
        response = http.json_response({})
        origins.add_cors(response, "http://testserver")
        headers = dict(response.headers)
        assert headers["Access-Control-Allow-Origin"] == "http://testserver"
        assert headers["Vary"] == "Origin"
        exposed = {name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")}
        assert {"Mcp-Session-Id", "WWW-Authenticate"} <= exposed

    def test_a_preflight_hears_the_mirrored_arguments_that_it_asks_for_and_nothing_else(self) -> None:
        asked = "X-Other, MCP-Param-Region, mcp-param-, mcp-param-a b, Mcp-Param-x\ny"
        headers = dict(origins.options_response(request(("Access-Control-Request-Headers", asked))).headers)
        allowed = {name.strip().lower() for name in headers["Access-Control-Allow-Headers"].split(",")}
        assert {name for name in allowed if "param" in name or "other" in name} == {"mcp-param-region"}

    def test_a_preflight_hears_every_method_and_header_of_the_protocol(self) -> None:
        response = origins.options_response(request(method="OPTIONS"))
        headers = dict(response.headers)
        assert response.status == 204
        assert response.body == b""
        assert headers["Allow"] == "GET, POST, DELETE, OPTIONS"
        assert headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
        assert {name.strip().lower() for name in headers["Access-Control-Allow-Headers"].split(",")} >= {
            "accept",
            "authorization",
            "content-type",
            "last-event-id",
            "mcp-method",
            "mcp-name",
            "mcp-protocol-version",
            "mcp-session-id",
        }
