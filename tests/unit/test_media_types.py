"""What a client sends and what it takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given

from mcp_django import media_types
from tests.unit.requests_by_hand import latin_text, refusal_of, request, status_of


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
        media_types.check_media_types(request(("Content-Type", content_type)))

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
        assert refusal_of(media_types.check_media_types, request(("Content-Type", content_type))).status == 415

    def test_a_missing_content_type_is_415(self) -> None:
        assert refusal_of(media_types.check_media_types, request()).status == 415

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
        media_types.check_media_types(request(("Content-Type", "application/json"), ("Accept", accept)))

    def test_no_accept_header_takes_everything(self) -> None:
        """RFC 9110, 12.5.1: whoever sends none takes any media type."""
        media_types.check_media_types(request(("Content-Type", "application/json")))

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
        assert refusal_of(media_types.check_media_types, refused).status == 406

    @given(latin_text, latin_text)
    @example("application/json;charset", ";=;q")
    def test_headers_of_any_text_are_taken_or_refused(self, content_type: str, accept: str) -> None:
        sent = request(("Content-Type", content_type), ("Accept", accept))
        assert status_of(media_types.check_media_types, sent) in (0, 406, 415)
