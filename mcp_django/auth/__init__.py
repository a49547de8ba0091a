"""Who may come in: principals and authenticators.

A server asks its authenticators in order; the first that recognises the request says whose it is. A request that
none recognises is anonymous where everybody may come in (``public``), and refused elsewhere. A session belongs to the
principal that opened it, and to nobody else: not to a later token on the same connection, not to another client of
the same user.
"""

from __future__ import annotations

from mcp_django.auth.authenticators import (
    AuthenticationFailed,
    Authenticator,
    Public,
    default_authenticators,
    made,
    public,
)
from mcp_django.auth.credentials import Credentials, check_scopes, identify, lacking
from mcp_django.auth.logins import DjangoLogin
from mcp_django.auth.oauth_toolkit import OAuthToolkit
from mcp_django.auth.principals import ANONYMOUS, MAX_KEY_LENGTH, Principal

__all__ = [
    "ANONYMOUS",
    "MAX_KEY_LENGTH",
    "AuthenticationFailed",
    "Authenticator",
    "Credentials",
    "DjangoLogin",
    "OAuthToolkit",
    "Principal",
    "Public",
    "check_scopes",
    "default_authenticators",
    "identify",
    "lacking",
    "made",
    "public",
]
