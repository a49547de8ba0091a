"""The two doors to one endpoint, as a project's ``asgi.py`` would make them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal

import django.core.asgi
import pytest

import mcp_django.asgi
from mcp_django.asgi import Application

Entry = Literal["native", "view"]
ENTRIES: Final[tuple[Entry, ...]] = ("native", "view")


@cache
def application_of(entry: Entry) -> Application:
    """The application for all tests that need no other."""
    return application_now(entry)


def application_now(entry: Entry) -> Application:
    """A new application, made with the settings of this moment."""
    makers: dict[Entry, Any] = {
        "native": mcp_django.asgi.get_asgi_application,
        "view": django.core.asgi.get_asgi_application,
    }
    application: Application = makers[entry]()
    return application


@pytest.fixture(params=["native", pytest.param("view", marks=pytest.mark.long)])
def native_by_default(request: pytest.FixtureRequest) -> Entry:
    """Stands in for ``entry`` in modules whose subject lies behind both entries: the view takes long."""
    value: Entry = request.param
    return value
