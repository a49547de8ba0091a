"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TokensConfig(AppConfig):
    """The app of bearer tokens."""

    name = "mcp_django.tokens"
    label = "mcp_tokens"
    verbose_name = _("MCP tokens")
    default_auto_field = "django.db.models.BigAutoField"
