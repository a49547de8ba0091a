"""The server at /members/mcp: nobody comes in without saying who they are."""

from __future__ import annotations

from django.conf import settings

from mcp_django import MCPServer

members = MCPServer(
    "members",
    title="Members",
    version="1.0",
    instructions="For people of the library. Start with whoami; staff can also read a report.",
    authenticators=settings.MEMBERS_AUTHENTICATORS,
    scopes=["library:read"],
)
"""Its list of authenticators is without mcp_django.auth.public."""
