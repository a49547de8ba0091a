"""System checks of who may come in: whether that was said, and whether callers can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from mcp_django import conf
from mcp_django.auth import Authenticator
from mcp_django.routes import served
from mcp_django.server import MCPServer

AppConfigs = Sequence[AppConfig] | None


@register(Tags.security)
def it_is_said_who_may_come_in(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W006, W008, E010: servers that let nobody in, or everybody, where it counts."""
    if settings.DEBUG:
        return
    for server in served():
        if not authenticators_of(server):
            # No error: tests run with DEBUG off, and those of a project that has not decided yet are to run.
            yield Warning(
                f"Server {server.name!r} lets nobody in: it has no authenticators, and DEBUG is off.",
                hint="Name some in MCP_DJANGO_AUTHENTICATORS or in its authenticators=; mcp_django.auth.public lets "
                "everybody in.",
                obj=server,
                id="mcp_django.W008",
            )
        elif server.is_public:
            yield Warning(
                f"Server {server.name!r} lets everybody in: mcp_django.auth.public is among its authenticators.",
                hint="If that is meant, add mcp_django.W006 to SILENCED_SYSTEM_CHECKS.",
                obj=server,
                id="mcp_django.W006",
            )
        if server.scopes and server.is_public:
            yield Error(
                f"Server {server.name!r} wants scopes of every caller and lets callers without credentials in.",
                hint="Take mcp_django.auth.public out of its authenticators, or the scopes off it; tools may have "
                "scopes of their own.",
                obj=server,
                id="mcp_django.E010",
            )


@register(Tags.security, deploy=True)
def proxies_are_named(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W007: a project that is behind a proxy, by its other settings, and whose anonymous callers all look like it."""
    behind = settings.USE_X_FORWARDED_HOST or settings.USE_X_FORWARDED_PORT or settings.SECURE_PROXY_SSL_HEADER
    try:
        named = conf.mcp_settings.TRUSTED_PROXIES
    except ImproperlyConfigured:
        return  # E002
    if behind and not named and any(server.is_public for server in served() if authenticators_of(server)):
        yield Warning(
            "The project is behind a proxy, and MCP_DJANGO_TRUSTED_PROXIES does not name it: anonymous callers all "
            "have the proxy's address, and share one caller's limits.",
            hint='Name the proxy, as in MCP_DJANGO_TRUSTED_PROXIES = ["10.0.0.0/8"]; ["unix"] for a Unix socket.',
            id="mcp_django.W007",
        )


def authenticators_of(server: MCPServer) -> tuple[Authenticator, ...]:
    """A server's authenticators; none if they cannot be had, which is E004."""
    try:
        return server.authenticators
    except ImproperlyConfigured:
        return ()
