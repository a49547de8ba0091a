"""The URLs that clients look for at the root of a host: ``path("", include("mcp_django.well_known"))``.

Part of ``mcp_django.urls``; for projects that include those under a prefix, or have servers of their own only.
"""

from __future__ import annotations

from django.urls import path

from mcp_django.auth.credentials import METADATA_PATH, METADATA_URL
from mcp_django.metadata import resource_metadata

urlpatterns = [
    path(METADATA_PATH, resource_metadata, name=METADATA_URL),
    path(f"{METADATA_PATH}/<path:endpoint>", resource_metadata, name=METADATA_URL),
]
