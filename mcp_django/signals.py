"""Signals. Sent with ``asend_robust``: a failing receiver is logged and changes nothing.

The sender is the :class:`~mcp_django.server.MCPServer`. No signal carries the session id: it is a bearer secret.
"""

from __future__ import annotations

from django.dispatch import Signal

session_opened = Signal()
"""A session was created. Arguments: ``session`` (the live session)."""

session_restored = Signal()
"""A session that this process did not have in memory was restored. Arguments: ``session``, ``marker``."""

session_ended = Signal()
"""A client ended its session by DELETE. Arguments: ``session`` (its digest as a string), ``reason``."""
