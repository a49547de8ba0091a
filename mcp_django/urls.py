"""URLs of the default server: ``path("", include("mcp_django.urls"))`` serves it at ``/mcp``, and the metadata of all
servers where clients look for them."""

from __future__ import annotations

from mcp_django import well_known
from mcp_django.server import mcp

app_name = "mcp_django"
urlpatterns = [*mcp.urls, *well_known.urlpatterns]
