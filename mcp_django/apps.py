"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MCPConfig(AppConfig):
    """The app. No I/O, no threads and no SDK import at start: those come with the first MCP request."""

    name = "mcp_django"
    label = "mcp_django"
    verbose_name = _("MCP")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Models can be imported from here on. The checks themselves import the SDK only when they run.
        from mcp_django import checks  # noqa: F401, PLC0415
