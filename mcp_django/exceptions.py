"""Exceptions.

MCPDjangoError                  do not raise directly
├── SessionNotFound             unknown, ended, expired, foreign, of another server: one and the same to a client
├── StoreUnavailable            the session store did not answer in time; nothing is known about the session
└── HandlerError                a handler asked for something it cannot have; the text reaches the model
    ├── StateTooLarge
    ├── StateInvalid
    └── StateConflict
"""

from __future__ import annotations


class MCPDjangoError(Exception):
    """Base of this package's exceptions."""


class SessionNotFound(MCPDjangoError):
    """No live session with this id is open to this caller on this server."""


class StoreUnavailable(MCPDjangoError):
    """The session store gave no answer within ``MCP_DJANGO_STORE_TIMEOUT``, or refused the connection."""


class HandlerError(MCPDjangoError):
    """A handler asked for something it cannot have. The message is shown to the model, so it says what to do."""


class StateTooLarge(HandlerError):
    """The session's state would outgrow ``MCP_DJANGO_MAX_STATE_BYTES``."""


class StateInvalid(HandlerError):
    """A value for the session's state is not plain JSON, or not of the kind that the operation needs."""


class StateConflict(HandlerError):
    """Other processes changed the session's state again and again while ``modify()`` tried to."""
