"""The checks of an HTTP request that need no session."""

from __future__ import annotations

import json

import pytest
from django.http import HttpRequest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from mcp_django import http, jsonrpc, media_types
from mcp_django.http import Request, Response
from tests.unit.requests_by_hand import HOST, latin_text, not_made, refusal_of, request, status_of


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
        media_types.check_media_types(
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
        http.json_response({}).headers.append(("X-Other", "1"))
        assert http.json_response({}).headers == [("Content-Type", "application/json")]
        assert Response(200).headers is not Response(200).headers
