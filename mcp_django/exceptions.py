"""Exceptions. All derive from :class:`MCPDjangoError`; what a handler may cause, and may show to the model, from
:class:`HandlerError`."""

from __future__ import annotations


class MCPDjangoError(Exception):
    """Base of this package's exceptions."""


class SessionNotFound(MCPDjangoError):
    """No live session with this id is open to this caller on this server."""


class StoreUnavailable(MCPDjangoError):
    """The session store gave no answer within ``MCP_DJANGO_STORE_TIMEOUT``, or refused the connection."""


class HookFailed(MCPDjangoError):
    """A hook of a handler class raised; the cause is logged. The request fails, the next one tries again."""


class HandlerError(MCPDjangoError):
    """A handler asked for something it cannot have. The message is shown to the model, so it says what to do."""


class StateTooLarge(HandlerError):
    """The session's state would outgrow ``MCP_DJANGO_MAX_STATE_BYTES``."""


class StateInvalid(HandlerError):
    """A value for the session's state is not plain JSON, or not of the kind that the operation needs."""


class StateConflict(HandlerError):
    """Other processes changed the session's state again and again while ``modify()`` tried to."""


class StreamLost(MCPDjangoError):
    """Another process has ended this stream: it took its producer for dead. What the producer has left is void."""


class ClientCannot(HandlerError):
    """The client did not declare that it can be asked this, or nothing can be asked on this connection."""


class EventTooLarge(HandlerError):
    """A message for a stream is larger than ``MCP_DJANGO_MAX_EVENT_BYTES``."""
