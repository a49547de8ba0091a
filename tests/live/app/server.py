from __future__ import annotations

from django.http import HttpRequest

from mcp_django import MCPServer
from mcp_django.auth import Authenticator, Principal, public
from tests.live.app import TOKEN_PREFIX


class LiveToken(Authenticator):
    """Whoever brings a bearer token with the right beginning is its owner: two tokens are two principals."""

    def concerns(self, headers: dict[str, str]) -> bool:
        return "authorization" in headers

    def authenticate(self, request: HttpRequest) -> Principal | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token.startswith(TOKEN_PREFIX):
            return None
        return Principal(f"live:{token.removeprefix(TOKEN_PREFIX)[:8]}")


live = MCPServer("live", title="What the live tests need beside the demo", authenticators=[LiveToken(), public])
