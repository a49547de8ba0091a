"""The ASGI entry point, to be named in a project's ``asgi.py`` in place of Django's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core.asgi import get_asgi_application as get_django_application

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def get_asgi_application() -> Application:
    """Drop-in for :func:`django.core.asgi.get_asgi_application`: URLs that lead to an MCP server are served
    natively, the rest is Django."""
    django = get_django_application()
    # A project's asgi.py imports this module before it names its settings; models can only be imported now.
    from mcp_django.native import MCPApplication  # noqa: PLC0415

    return MCPApplication(django)
