"""App configuration."""

from __future__ import annotations

import os
from importlib import import_module

from django.apps import AppConfig
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django.utils.translation import gettext_lazy as _


class MCPConfig(AppConfig):
    """The app. No I/O, no threads and no SDK import at start: those come with the first MCP request."""

    name = "mcp_django"
    label = "mcp_django"
    verbose_name = _("MCP")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Models can be imported from here on. The checks themselves import the SDK only when they run.
        from mcp_django import auth_checks, checks, oauth_checks, revocation  # noqa: F401, PLC0415

        revocation.connect()
        if os.environ.get(DJANGO_AUTORELOAD_ENV) == "true":
            # runserver imports the URLconf and runs the checks in two threads at once. Both would import the SDK, whose
            # modules import each other in circles, and each thread would wait for the other.
            import_module("mcp_django.views")
