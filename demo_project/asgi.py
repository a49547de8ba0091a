"""The ASGI application: MCP endpoints run natively, everything else is Django.

``MCP_ENTRY=view`` serves the same URLs through Django's own application instead, middleware and all.
"""

from __future__ import annotations

import os

import django.core.asgi
from django.core.exceptions import ImproperlyConfigured

import mcp_django.asgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_project.settings")

ENTRIES = {"native": mcp_django.asgi.get_asgi_application, "view": django.core.asgi.get_asgi_application}
entry = os.environ.get("MCP_ENTRY") or "native"
if entry not in ENTRIES:
    raise ImproperlyConfigured(f"MCP_ENTRY is {entry!r}, expected one of {', '.join(ENTRIES)}.")

application = ENTRIES[entry]()
