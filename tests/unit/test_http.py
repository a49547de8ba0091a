"""The checks of an HTTP request that need no session."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory, override_settings
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_django import http, jsonrpc
from mcp_django.http import HTTPRefusal, Request, Response

HOST = "testserver"
latin_text = st.text(st.characters(max_codepoint=255))


def request(*headers: tuple[str, str], method: str = "POST", **meta: Any) -> Request:
    """A request with these header lines; `meta` is what Django's own request is made of."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return Request(method, raw, b"", lambda body: RequestFactory().post("/mcp", **meta))


def not_made(body: bytes) -> HttpRequest:
    raise AssertionError("a request object of Django's was made that nobody needs")


def refusal_of(check: Callable[..., Any], *args: Any) -> Response:
    """The response with which `check` refuses; its body is a JSON-RPC error that says something."""
    with pytest.raises(HTTPRefusal) as caught:
        check(*args)
    response = caught.value.response
    body = json.loads(response.body)
    assert body["jsonrpc"] == "2.0"
    assert body["id"] is None
    assert isinstance(body["error"]["code"], int)
    assert len(body["error"]["message"]) > 10
    assert ("Content-Type", "application/json") in response.headers
    return response


def status_of(check: Callable[..., Any], *args: Any) -> int:
    """The status with which `check` refuses, 0 if it does not. Any other exception is a failure."""
    try:
        check(*args)
    except HTTPRefusal as refusal:
        return refusal.response.status
    return 0


class TestRequest:
    def test_finds_headers_whatever_their_case(self) -> None:
        assert request(("MCP-Session-ID", "abc")).single("mcp-session-id") == "abc"
        assert request().single("mcp-session-id") is None

    def test_white_space_around_a_value_is_no_part_of_it(self) -> None:
        found = request(("Mcp-Name", " \tadd two \t"), ("Accept", " text/html"), ("Accept", "text/plain ")).headers
        assert found == {"mcp-name": "add two", "accept": "text/html, text/plain"}

    def test_refuses_a_header_that_may_come_once_and_came_twice(self) -> None:
        twice = request(("Mcp-Session-Id", "abc"), ("mcp-session-id", "abc"))
        response = refusal_of(twice.single, "mcp-session-id")
        assert response.status == 400
        assert b"mcp-session-id" in response.body

    def test_lets_another_header_come_twice(self) -> None:
        twice = request(("X-Forwarded-For", "a"), ("X-Forwarded-For", "b"), ("Mcp-Session-Id", "abc"))
        assert twice.single("mcp-session-id") == "abc"

    def test_joins_the_lines_of_a_list_header(self) -> None:
        """RFC 9110, 5.3: a list may be sent in several lines."""
        http.check_media_types(
            request(
                ("Content-Type", "application/json"),
                ("Accept", "application/json"),
                ("Accept", "text/event-stream"),
            )
        )

    def test_joins_the_crumbs_of_a_cookie(self) -> None:
        """RFC 9113, 8.2.3: over HTTP/2 a cookie header may come in pieces, and browsers do send it so."""
        assert request(("Cookie", "a=1"), ("Cookie", "sessionid=2")).headers["cookie"] == "a=1; sessionid=2"

    @given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8))))
    def test_is_made_of_whatever_bytes_a_server_hands_over(self, headers: list[tuple[bytes, bytes]]) -> None:
        made = Request("POST", headers, b"", not_made)
        assert set(made.headers) == {name.decode("latin-1").lower() for name, _ in headers}

    def test_makes_djangos_request_at_first_use_and_once(self) -> None:
        made: list[bytes] = []

        def django(body: bytes) -> HttpRequest:
            made.append(body)
            return HttpRequest()

        lazy = Request("POST", [], b"", django)
        lazy.body = b"read later"
        assert not made
        assert lazy.django is lazy.django
        assert made == [b"read later"]


class TestDeclaredLength:
    @pytest.mark.parametrize("value", [None, "0", "5", "007", "100"])
    @override_settings(MCP_DJANGO_MAX_BODY_BYTES=100)
    def test_up_to_the_limit_passes(self, value: str | None) -> None:
        http.check_declared_length(value)

    @pytest.mark.parametrize("value", ["101", "9" * 15, "9" * 16, "9" * 10_000])
    @override_settings(MCP_DJANGO_MAX_BODY_BYTES=100)
    def test_above_the_limit_is_413_and_names_the_setting(self, value: str) -> None:
        response = refusal_of(http.check_declared_length, value)
        assert response.status == 413
        assert b"MCP_DJANGO_MAX_BODY_BYTES" in response.body

    @pytest.mark.parametrize("value", ["", "-1", "+5", " 5", "5 ", "1e3", "0x10", "5,5", "٥", "²", "1_000", "five"])
    def test_that_is_no_number_is_400(self, value: str) -> None:
        assert refusal_of(http.check_declared_length, value).status == 400

    @given(latin_text)
    def test_never_fails_in_another_way(self, value: str) -> None:
        status = status_of(http.check_declared_length, value)
        assert status in (0, 400, 413)
        assert status or int(value) >= 0


class TestHeaderSize:
    def test_ordinary_headers_pass(self) -> None:
        http.check_header_size(request(("Host", HOST), ("Cookie", "x" * 8000)))

    def test_headers_that_are_too_large_together_are_431(self) -> None:
        lines = [(f"X-Header-{number}", "x" * 1000) for number in range(100)]
        assert refusal_of(http.check_header_size, request(*lines)).status == 431


class TestMediaTypes:
    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json",
            "Application/JSON",
            " application/json ",
            "application/json;",
            "application/json; charset=utf-8",
            'application/json;charset="UTF-8"',
            "application/json; Charset=utf8; boundary=x",
        ],
    )
    def test_json_in_utf_8_is_taken(self, content_type: str) -> None:
        http.check_media_types(request(("Content-Type", content_type)))

    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/json-rpc",
            "application/ld+json",
            "application/json, text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=application/json",
            "application/json; charset=latin-1",
            "application/json; charset=utf-16",
            "application/json; charset=",
        ],
    )
    def test_anything_else_is_415(self, content_type: str) -> None:
        assert refusal_of(http.check_media_types, request(("Content-Type", content_type))).status == 415

    def test_a_missing_content_type_is_415(self) -> None:
        assert refusal_of(http.check_media_types, request()).status == 415

    @pytest.mark.parametrize(
        "accept",
        [
            "application/json, text/event-stream",
            "text/event-stream,application/json",
            "TEXT/Event-Stream , Application/JSON",
            "application/json;q=0.5, text/event-stream;q=0.001",
            "application/*, text/*",
            "application/json, text/*;q=0.1",
            "*/*",
            "text/html, */*;q=0.1",
            "*/*;q=0, application/json, text/event-stream",
            "application/*;q=0, application/json, text/event-stream",
            "application/json; charset=utf-8, text/event-stream;q=1.000",
            ", application/json,, text/event-stream,",
        ],
    )
    def test_an_accept_list_with_json_and_event_streams_is_taken(self, accept: str) -> None:
        http.check_media_types(request(("Content-Type", "application/json"), ("Accept", accept)))

    def test_no_accept_header_takes_everything(self) -> None:
        """RFC 9110, 12.5.1: whoever sends none takes any media type."""
        http.check_media_types(request(("Content-Type", "application/json")))

    @pytest.mark.parametrize(
        "accept",
        [
            "application/json",
            "text/event-stream",
            "application/*",
            "text/*",
            "text/html, application/xhtml+xml",
            "application/json, text/event-stream;q=0",
            "application/json;q=0.0, text/event-stream",
            "application/json; q=0.000, text/event-stream",
            "*/*;q=0",
            "",
            "application/jsontext/event-stream",
            # What is more specific counts (RFC 9110, 12.5.1).
            "*/*, text/event-stream;q=0",
            "application/json;q=0, */*",
            "application/*, application/json;q=0, text/event-stream",
        ],
    )
    def test_an_accept_list_without_both_is_406(self, accept: str) -> None:
        refused = request(("Content-Type", "application/json"), ("Accept", accept))
        assert refusal_of(http.check_media_types, refused).status == 406

    @given(latin_text, latin_text)
    @example("application/json;charset", ";=;q")
    def test_headers_of_any_text_are_taken_or_refused(self, content_type: str, accept: str) -> None:
        sent = request(("Content-Type", content_type), ("Accept", accept))
        assert status_of(http.check_media_types, sent) in (0, 406, 415)


def host_of(*headers: tuple[str, str]) -> str:
    return http.host_of(request(*headers))


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
    return http.origin_allowed(origin, host, secure=secure)


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
    return http.check_host_and_origin(request(*headers, **meta))


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
        assert http.check_host_and_origin(Request("POST", [(b"host", HOST.encode())], b"", not_made)) is None


class TestResponses:
    def test_a_lost_session_has_one_answer_that_tells_to_start_anew(self) -> None:
        first, second = http.session_not_found().response, http.session_not_found().response
        assert first.status == 404
        assert (first.body, first.headers) == (second.body, second.headers)
        assert json.loads(first.body)["error"]["code"] == jsonrpc.SESSION_NOT_FOUND
        assert b"initialize" in first.body

    def test_an_unavailable_store_is_503_and_says_when_to_come_again(self) -> None:
        response = http.unavailable().response
        assert response.status == 503
        assert int(dict(response.headers)["Retry-After"]) > 0

    def test_headers_of_one_answer_do_not_reach_the_next(self) -> None:
        http.add_cors(http.json_response({}), "http://testserver")
        assert http.json_response({}).headers == [("Content-Type", "application/json")]
        assert Response(200).headers is not Response(200).headers

    def test_a_browser_page_may_read_the_session_id_and_nobody_caches_it_for_another(self) -> None:
        response = http.json_response({})
        http.add_cors(response, "http://testserver")
        headers = dict(response.headers)
        assert headers["Access-Control-Allow-Origin"] == "http://testserver"
        assert headers["Vary"] == "Origin"
        exposed = {name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")}
        assert {"Mcp-Session-Id", "WWW-Authenticate"} <= exposed

    def test_a_preflight_hears_the_mirrored_arguments_that_it_asks_for_and_nothing_else(self) -> None:
        asked = "X-Other, MCP-Param-Region, mcp-param-, mcp-param-a b, Mcp-Param-x\ny"
        headers = dict(http.options_response(request(("Access-Control-Request-Headers", asked))).headers)
        allowed = {name.strip().lower() for name in headers["Access-Control-Allow-Headers"].split(",")}
        assert {name for name in allowed if "param" in name or "other" in name} == {"mcp-param-region"}

    def test_a_preflight_hears_every_method_and_header_of_the_protocol(self) -> None:
        response = http.options_response(request(method="OPTIONS"))
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
