"""From where a request comes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from mcp_django import addresses
from mcp_django.conf import wrong
from mcp_django.http import Request
from tests.unit.requests_by_hand import not_made

if TYPE_CHECKING:
    from pytest_django import Settings


def caller(peer: str, forwarded: str | None = None) -> str:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode("latin-1"))]
    return addresses.caller_of(Request("POST", headers, b"", not_made, peer=peer))


class TestWithoutProxies:
    @pytest.mark.parametrize(
        ("peer", "counted"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
            ("testclient", "testclient"),
            ("", ""),
        ],
    )
    def test_the_other_end_of_the_connection_is_the_caller(self, peer: str, counted: str) -> None:
        assert caller(peer) == counted

    def test_what_the_caller_says_of_itself_does_not_count(self) -> None:
        assert caller("203.0.113.7", "198.51.100.1") == "203.0.113.7"

    def test_a_name_without_end_is_cut(self) -> None:
        assert len(caller("x" * 5000)) == 64

    @pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.3", ""])
    def test_a_proxy_that_nobody_named_is_noticed_once(self, peer: str, caplog: pytest.LogCaptureFixture) -> None:
        addresses._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING, "mcp_django.addresses"):
            assert caller(peer, "198.51.100.1") == caller(peer, "198.51.100.2")
        (record,) = caplog.records
        assert "MCP_DJANGO_TRUSTED_PROXIES" in record.getMessage()

    def test_no_proxy_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        addresses._warn_once.cache_clear()
        caller("127.0.0.1")
        caller("203.0.113.7", "198.51.100.1")
        assert caplog.records == []


class TestBehindProxies:
    @pytest.fixture(autouse=True)
    def proxies(self, settings: Settings) -> None:
        settings.MCP_DJANGO_TRUSTED_PROXIES = ["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48", "unix"]

    @pytest.mark.parametrize(
        ("peer", "forwarded", "counted"),
        [
            ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("", "198.51.100.1", "198.51.100.1"),
            ("2001:db8:ffff::1", "2001:db8:1:2::3", "2001:db8:1:2::/64"),
            ("127.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
            ("127.0.0.1", "[2001:db8:1:2::3]:4711", "2001:db8:1:2::/64"),
            ("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1"),
            ("127.0.0.1", None, "127.0.0.1"),
            ("127.0.0.1", "10.1.2.3, 10.1.2.4", "10.1.2.3"),
        ],
    )
    def test_the_last_one_that_is_no_proxy_is_the_caller(self, peer: str, forwarded: str | None, counted: str) -> None:
        assert caller(peer, forwarded) == counted

    def test_what_stands_before_it_may_be_anybodys_invention(self) -> None:
        assert caller("127.0.0.1", "192.0.2.1, 198.51.100.1") == "198.51.100.1"

    def test_who_comes_past_the_proxies_is_not_believed(self) -> None:
        assert caller("203.0.113.7", "198.51.100.1") == "203.0.113.7"

    def test_garbage_ends_the_way_back(self) -> None:
        assert caller("127.0.0.1", "198.51.100.1, , 10.1.2.3") == "10.1.2.3"
        assert caller("127.0.0.1", "198.51.100.1, unknown") == "unknown"

    def test_a_chain_without_end_is_not_followed_for_ever(self) -> None:
        assert caller("127.0.0.1", ",".join(["198.51.100.1", *["10.1.2.3"] * 5000])) == "10.1.2.3"


@pytest.mark.parametrize("value", [["10.0.0.0/40"], ["proxy.example"], [7.5], ["10.0.0.1/8"]], ids=str)
def test_what_is_no_network_is_a_wrong_setting(value: list[object]) -> None:
    assert "MCP_DJANGO_TRUSTED_PROXIES holds" in str(wrong("TRUSTED_PROXIES", value))


def test_networks_addresses_and_unix_are_right() -> None:
    assert wrong("TRUSTED_PROXIES", ["10.0.0.0/8", "::1", "unix"]) is None
