"""Django admin: windows on sessions and processes, not forms. The only change on offer is to end sessions.

Plain ``ModelAdmin`` classes, to be subclassed and registered again by a project that wants them otherwise.
"""

from __future__ import annotations

from mcp_django.admin.processes import ProcessAdmin
from mcp_django.admin.sessions import SessionAdmin

__all__ = ["ProcessAdmin", "SessionAdmin"]
