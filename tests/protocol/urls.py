"""Where the servers under test are, in every way that a URLconf can say it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path

from tests.protocol import auth_servers, handle_servers, rest_framework_views, round_servers, servers
from tests.protocol.stage import stage


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Not MCP.")


def decorated(view: Any) -> Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]:
    """A project's own guard around an endpoint."""

    @functools.wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        stage.record("guarded")
        response: HttpResponse = await view(request)
        return response

    return guarded


view: Any = servers.main.view

urlpatterns = [
    path("", home, name="protocol-home"),
    path("somewhere/mcp-docs", home),
    path("protocol/", include(servers.main.urls)),
    path("other/", include(servers.other.urls)),
    path("site/", include(servers.site.urls)),
    path("empty/", include(servers.empty.urls)),
    path("long/", include(servers.long_lists.urls)),
    path("switching/", include(servers.switching.urls)),
    path("asking/", include(round_servers.asking.urls)),
    path("cached/", include(round_servers.cached.urls)),
    path("handshake-only/", include(round_servers.handshake_only.urls)),
    path("closed/", include(auth_servers.closed.urls)),
    path("opened/", include(auth_servers.opened.urls)),
    path("scoped/", include(auth_servers.scoped.urls)),
    path("unnamed/", include(auth_servers.unnamed.urls)),
    path("logins/", include(auth_servers.logins.urls)),
    path("logins-only/", include(auth_servers.logins_only.urls)),
    path("scoped-functions/", include(auth_servers.scoped_functions.urls)),
    path("guarded-things/", include(auth_servers.guarded.urls)),
    path("atomic/", include(auth_servers.atomic.urls)),
    path("rest/", include(rest_framework_views.rest.urls)),
    path("rest/users", rest_framework_views.users),
    path("handles/", include(handle_servers.first.urls)),
    path("handles-second/", include(handle_servers.second.urls)),
    path("deep/er/<str:tenant>/", include(servers.main.urls)),
    path("by-name/<slug:name>", view),
    re_path(r"^by-pattern/optional/mcp/?\Z", view),
    path("guarded/mcp", decorated(view)),
]
