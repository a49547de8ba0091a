"""What a stateless client says of itself is read once, and never taken for what another one says."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.inbound import InboundModernRoute
from mcp_types import LOG_LEVEL_META_KEY

from mcp_django import modern
from mcp_django.modern import Envelope

INFO = {"name": "a client", "version": "1.0"}


def envelope(info: Any = INFO, capabilities: Any = None, level: Any = None) -> Envelope:
    route = InboundModernRoute("2026-07-28", info, {} if capabilities is None else capabilities)
    return Envelope.of(route, {} if level is None else {LOG_LEVEL_META_KEY: level})


def test_who_says_the_same_again_gets_the_same_envelope() -> None:
    assert envelope(dict(INFO)) is envelope(dict(INFO))


@pytest.mark.parametrize(
    "other",
    [
        {"info": {**INFO, "version": "1.1"}},
        {"info": None},
        {"capabilities": {"roots": {}}},
        {"level": "debug"},
    ],
)
def test_who_says_anything_else_gets_another(other: dict[str, Any]) -> None:
    assert envelope(**other) is not envelope()
    assert envelope(level="debug").log_level == "debug"
    assert envelope().log_level is None


def test_values_that_are_equal_in_python_alone_are_told_apart() -> None:
    one, true = (envelope(capabilities={"experimental": {"x": {"on": value}}}) for value in (1, True))
    assert one.capabilities.experimental == {"x": {"on": 1}}
    assert true.capabilities.experimental is not None
    assert true.capabilities.experimental["x"]["on"] is True


def test_a_large_one_is_not_kept() -> None:
    large = {**INFO, "title": "x" * modern.MAX_KNOWN}
    assert envelope(large) is not envelope(large)


def test_a_client_without_a_name_has_capabilities_all_the_same() -> None:
    nameless = envelope(None, {"roots": {}})
    assert nameless.client_params is None
    assert nameless.capabilities.roots is not None
