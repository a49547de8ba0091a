"""The demo as an authorization server: what OAUTH=1 adds to the settings. The documentation shows this block."""

from __future__ import annotations

OAUTH2_PROVIDER = {
    # What may be asked for, and what the consent page says of it.
    "SCOPES": {
        "library:read": "See who you are, and use the tools that are there for every member",
        "library:report": "Read the report on loans, if your account may",
    },
    # What a client gets that asks for nothing in particular.
    "DEFAULT_SCOPES": ["library:read"],
    # A token that got away is soon worth nothing; clients refresh theirs without asking anybody.
    "ACCESS_TOKEN_EXPIRE_SECONDS": 15 * 60,
    "REFRESH_TOKEN_EXPIRE_SECONDS": 30 * 24 * 3600,
    # A refresh token that is used a second time was stolen by one of the two: both lose what they have.
    "REFRESH_TOKEN_REUSE_PROTECTION": True,
    # Clients that nobody here knows introduce themselves: by the URL of a document about them ...
    "CIMD_ENABLED": True,
    # ... or by registering. Whoever they are, a user has to agree, and sees where the answer goes.
    "DCR_ENABLED": True,
    "DCR_REGISTRATION_PERMISSION_CLASSES": ["oauth2_provider.dcr.AllowAllDCRPermission"],
    # "none": a client on somebody's machine can keep no secret. PKCE takes its place, which is required by default.
    "OAUTH2_TOKEN_ENDPOINT_AUTH_METHODS_SUPPORTED": ["none", "client_secret_basic", "client_secret_post"],
    "OAUTH2_GRANT_TYPES_SUPPORTED": ["authorization_code", "refresh_token", "client_credentials"],
    "OAUTH2_RESPONSE_TYPES_SUPPORTED": ["code"],
    # What RFC 9700 asks for and the toolkit does not do by default.
    "COMPLIANT_BCP_RFC9700_IMPLICIT_GRANT": True,
    "COMPLIANT_BCP_RFC9700_PASSWORD_GRANT": True,
    "COMPLIANT_BCP_RFC9700_PKCE_METHOD": True,
    "COMPLIANT_BCP_RFC9700_PKCE_REQUIRED": True,
    "COMPLIANT_BCP_RFC9700_ACCESS_TOKEN_TRANSPORT": True,
    "COMPLIANT_BCP_RFC9700_AUTHZ_RESPONSE_ISS": True,
    "COMPLIANT_BCP_RFC9700_TOKEN_STORAGE": True,
    "COMPLIANT_BCP_RFC9700_REFRESH_TOKEN": True,
    "COMPLIANT_BCP_RFC9700_REDIRECT_URI_MATCHING": True,
    # Not COMPLIANT_BCP_RFC9700_REDIRECT_URI_SCHEME: clients on a desktop redirect to http://127.0.0.1 (RFC 8252).
}
