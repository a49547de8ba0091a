"""Signals. Sent with ``asend_robust``: a failing receiver is logged and changes nothing.

The sender is the :class:`~mcp_django.server.MCPServer`. Sessions are named by their digest; only a restore marker
carries the session id itself, which is a bearer secret and not to be logged.
"""

from __future__ import annotations

from django.dispatch import Signal

session_opened = Signal()
"""A session was created. Arguments: ``session`` (the live session)."""

session_restored = Signal()
"""A session that this process did not have in memory was restored. Arguments: ``session``, ``marker``."""

session_ended = Signal()
"""A client ended its session by DELETE. Arguments: ``session`` (its digest as a string), ``reason``."""
