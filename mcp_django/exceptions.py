"""Exceptions. All derive from :class:`MCPDjangoError`; what a handler may cause, and may show to the model, from
:class:`HandlerError`."""

from __future__ import annotations

from typing import Any


class MCPDjangoError(Exception):
    """Base of this package's exceptions."""


class SessionNotFound(MCPDjangoError):
    """No live session with this id is open to this caller on this server."""


class TooManySessions(MCPDjangoError):
    """The caller has as many sessions as it may, and all of them are at work."""


class StoreUnavailable(MCPDjangoError):
    """The session store gave no answer within ``MCP_DJANGO_STORE_TIMEOUT``, or refused the connection."""


class HookFailed(MCPDjangoError):
    """A hook of a handler class raised; the cause is logged. The request fails, the next one tries again."""


class HandlerError(MCPDjangoError):
    """A handler asked for something it cannot have. The message is shown to the model, so it says what to do."""


class StateTooLarge(HandlerError):
    """The state would outgrow ``MCP_DJANGO_MAX_STATE_BYTES``."""


class StateInvalid(HandlerError):
    """A value for the state is not plain JSON, or not of the kind that the operation needs."""


class StateConflict(HandlerError):
    """Other processes changed the state again and again while ``modify()`` tried to."""


class HandleNotFound(HandlerError):
    """There is no such handle for this caller on this server: it was never made, has expired or was ended, or belongs
    to somebody else."""

    def __init__(self, kind: str = "handle", about: str = "") -> None:
        super().__init__(
            f"There is no such {kind}, or no longer: it has expired or was ended, or it is not this user's or this "
            f"server's. Get another one from the tool that makes them. {about}".rstrip()
        )


class StreamLost(MCPDjangoError):
    """Another process has ended this stream: it took its producer for dead. What the producer has left is void."""


class ClientCannot(HandlerError):
    """The client did not declare that it can be asked this, or nothing can be asked on this connection.

    ``required`` is the capability that it would have to declare, as it is written on the wire; None if none would do.
    """

    def __init__(self, message: str, required: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.required = required


class NoSession(HandlerError):
    """A handler asked for what belongs to a session, and the client speaks a revision without sessions."""

    def __init__(self) -> None:
        super().__init__(
            "This needs a session, and the protocol version that this client speaks has none, so it does not work "
            "with this client. Say so to the user, or reach the goal with other tools. (For the server's developer: "
            "keep what must outlive a call in a mcp_django.Handle, which works in every version; ctx.has_session tells "
            "the two apart.)"
        )


class TooManyEvents(HandlerError):
    """A call has sent as many messages as ``MCP_DJANGO_MAX_STREAM_EVENTS`` allows; its answer still can be."""

    def __init__(self) -> None:
        super().__init__(
            "This call has sent as many messages as one may (MCP_DJANGO_MAX_STREAM_EVENTS). Ask for less at once. (For "
            "the server's developer: report progress in fewer steps.)"
        )


class EventTooLarge(HandlerError):
    """A message for a stream is larger than ``MCP_DJANGO_MAX_EVENT_BYTES``."""
