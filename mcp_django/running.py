"""What is running: the call that a piece of code belongs to, for modules that must not import the SDK."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_django.calls import Call

current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("mcp_django_call")
"""The call that this code runs for; set in handlers and hooks."""
