"""A second URLconf: the same server at other paths, and something else where it was."""

from __future__ import annotations

from django.urls import include, path, re_path

from tests.protocol import servers
from tests.protocol.urls import home, view

urlpatterns = [
    path("", home, name="protocol-home"),
    path("protocol/mcp", home),
    path("moved/", include(servers.main.urls)),
    re_path(r"^by-pattern/endpoint$", view),
    re_path(r"^by-pattern/[0-9]+/", include(servers.main.urls)),
]
