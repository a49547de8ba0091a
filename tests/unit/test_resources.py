"""The URLs of endpoints, as tokens name them: when two are one, and what is remembered of a request's."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from mcp_django.auth.resources import canonical, is_among, resource_of
from mcp_django.http import Request

HERE = "https://api.example.com/members/mcp"


class TestMatching:
    @pytest.mark.parametrize(
        "name",
        [
            HERE,
            "https://api.example.com/members/mcp/",
            "https://api.example.com:443/members/mcp",
            "HTTPS://API.example.COM/members/mcp",
        ],
    )
    def test_one_endpoint_may_be_written_in_several_ways(self, name: str) -> None:
        assert is_among(HERE, [name])
        assert is_among(name, [HERE])

    @pytest.mark.parametrize(
        "name",
        [
            "http://api.example.com/members/mcp",
            "https://api.example.com",
            "https://api.example.com/members",
            "https://api.example.com/members/",
            "https://api.example.com/members/mcp/x",
            "https://api.example.com/members/mcp//",
            "https://api.example.com/Members/mcp",
            "https://api.example.com/members/./mcp",
            "https://api.example.com/x/../members/mcp",
            "https://api.example.com/members%2Fmcp",
            "https://api.example.com:8443/members/mcp",
            "https://api.example.com.evil.example/members/mcp",
            "https://evil.example/api.example.com/members/mcp",
            "https://user@api.example.com/members/mcp",
            "https://api.example.com@evil.example/members/mcp",
            "https://api.example.com\\@evil.example/members/mcp",
            "https://api.example.com/members/mcp?",
            "https://api.example.com/members/mcp#",
            " https://api.example.com/members/mcp",
            "https://api.example.com/members/mcp\n",
            "https://api.example.com/mem\tbers/mcp",
            "//api.example.com/members/mcp",
            "ftp://api.example.com/members/mcp",
            "https:///members/mcp",
            "https://api.example.com:x/members/mcp",
            "https://[api.example.com/members/mcp",
            "https://api.example.com/members/mcp" + "/" * 3000,
            "",
        ],
    )
    def test_what_merely_looks_alike_is_another(self, name: str) -> None:
        assert not is_among(HERE, [name])

    @pytest.mark.parametrize("named", [None, [], {}, HERE, {HERE: 1}, [None], [[HERE]], 7])
    def test_what_is_no_list_of_texts_names_nothing(self, named: Any) -> None:
        assert not is_among(HERE, named)

    def test_one_of_several_is_enough(self) -> None:
        assert is_among(HERE, ["urn:x", None, HERE])

    def test_an_endpoint_that_cannot_be_named_is_never_matched(self) -> None:
        assert not is_among("https://api.example.com/members/mcp?x", ["https://api.example.com/members/mcp?x"])

    def test_an_at_sign_in_the_path_is_part_of_it(self) -> None:
        assert is_among("https://api.example.com/@team/mcp", ["https://api.example.com/@team/mcp/"])

    @given(st.text())
    def test_any_text_is_taken(self, text: str) -> None:
        canonical(text)


class TestOfARequest:
    @staticmethod
    def request(
        *headers: tuple[str, str], target: Any = ("/mcp", ""), made: list[HttpRequest] | None = None
    ) -> Request:
        def make(body: bytes) -> HttpRequest:
            request = RequestFactory().post("/mcp", headers=dict(headers))
            if made is not None:
                made.append(request)
            return request

        raw = [(name.encode(), value.encode()) for name, value in headers]
        return Request("POST", raw, b"", make, target=target)

    def test_it_is_made_once_for_all_that_come_the_same_way(self) -> None:
        made: list[HttpRequest] = []
        with override_settings(ALLOWED_HOSTS=["*"]):
            found = {resource_of(self.request(("Host", "a.example"), made=made)) for _ in range(3)}
            assert found == {"http://a.example/mcp"}
            assert len(made) == 1
            assert resource_of(self.request(("Host", "b.example"), made=made)) == "http://b.example/mcp"

    def test_what_a_proxy_says_counts_where_the_settings_let_it(self) -> None:
        proxied = [("Host", "inner"), ("X-Forwarded-Host", "outer.example"), ("X-Forwarded-Proto", "https")]
        trusting = {"USE_X_FORWARDED_HOST": True, "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}
        with override_settings(ALLOWED_HOSTS=["*"]):
            assert resource_of(self.request(*proxied)) == "http://inner/mcp"
            with override_settings(**trusting):
                assert resource_of(self.request(*proxied)) == "https://outer.example/mcp"
                assert resource_of(self.request(proxied[0])) == "http://inner/mcp"
            assert resource_of(self.request(*proxied)) == "http://inner/mcp"

    def test_nothing_is_remembered_where_the_url_is_not_all_known(self) -> None:
        made: list[HttpRequest] = []
        for _ in range(2):
            assert resource_of(self.request(("Host", "testserver"), target=None, made=made)) == "http://testserver/mcp"
        assert len(made) == 2

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mcp_django.auth.resources.MAX_REMEMBERED", 1)
        made: list[HttpRequest] = []
        with override_settings(ALLOWED_HOSTS=["*"]):
            for host in ("a.example", "b.example", "b.example"):
                assert resource_of(self.request(("Host", host), made=made)) == f"http://{host}/mcp"
        assert len(made) == 3
