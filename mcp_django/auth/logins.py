"""People who are logged in to the Django site in the same browser."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.utils.module_loading import import_string

from mcp_django import origins
from mcp_django.auth.authenticators import Authenticator
from mcp_django.auth.principals import Principal
from mcp_django.http import Request


class DjangoLogin(Authenticator):
    """People who are logged in to the Django site in the same browser, on pages of the same origin.

    A browser sends its cookies whatever page asks it to; so a login counts only where the browser says that the
    page is of the endpoint's own origin, or where no browser page is involved. Origins that are allowed to call
    (``MCP_DJANGO_ALLOWED_ORIGINS``, ``CSRF_TRUSTED_ORIGINS``) do so without it.
    """

    scheme = "Cookie"

    def concerns(self, headers: dict[str, str]) -> bool:
        return settings.SESSION_COOKIE_NAME in headers.get("cookie", "")

    async def recognise(self, request: Request, server: str) -> Principal | None:
        return await super().recognise(request, server) if origins.is_same_origin(request) else None

    def authenticate(self, request: HttpRequest) -> Principal | None:
        if not hasattr(request, "session"):
            # The native entry runs no middleware, so the login is read as SessionMiddleware would.
            engine: Any = import_string(f"{settings.SESSION_ENGINE}.SessionStore")
            request.session = session = engine(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
            # Only read: a session of another key, as get_user() makes one when SECRET_KEY has changed, would need a
            # cookie that nobody sends, and the user would be logged out of the site.
            session.cycle_key = session.flush = lambda: None
        user = get_user(request)
        if not user.is_authenticated:
            return None
        return Principal(Principal.key_of(user.pk), user)
