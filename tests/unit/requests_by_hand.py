"""HTTP requests as the endpoint sees them, made by hand, and what checks make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory
from hypothesis import strategies as st

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
