"""URLs of the default server: ``path("", include("mcp_django.urls"))`` serves it at ``/mcp``."""

from __future__ import annotations

from mcp_django.server import mcp

app_name = "mcp_django"
urlpatterns = mcp.urls
