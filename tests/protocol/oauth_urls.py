"""An authorization server and what it guards, as a project would have them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.protocol import oauth_servers

view: Any = oauth_servers.guarded.view


def wrapped(view: Any) -> Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]:
    """A project's own decorator around an endpoint."""

    @functools.wraps(view)
    async def decorated(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = await view(request)
        return response

    return decorated


urlpatterns = [
    path("", include("mcp_django.well_known")),
    path("guarded/", include(oauth_servers.guarded.urls)),
    path("scoped/", include(oauth_servers.scoped.urls)),
    path("both/", include(oauth_servers.both.urls)),
    path("open/", include(oauth_servers.open_to_all.urls)),
    path("tenants/<str:tenant>/", include(oauth_servers.guarded.urls)),
    path("wrapped/mcp", wrapped(view)),
    path("slash-only/", view),
    path("", include("demo_project.oauth.urls")),
]
