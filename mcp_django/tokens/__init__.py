"""Bearer tokens of this project's own: an app, put into ``INSTALLED_APPS`` by those who want them.

A token is made for a user, by ``manage.py mcptoken`` or in the admin, and is shown once; what is stored is its digest.
``BearerTokens`` is the authenticator that takes them::

    MCP_DJANGO_AUTHENTICATORS = ["mcp_django.tokens.BearerTokens"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_django.tokens.authenticators import BearerTokens

__all__ = ["BearerTokens"]


def __getattr__(name: str) -> Any:
    # Django imports this package before there is any app.
    if name in __all__:
        from mcp_django.tokens import authenticators  # noqa: PLC0415 - needs the app registry

        return getattr(authenticators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
