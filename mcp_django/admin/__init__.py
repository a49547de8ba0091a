"""Django admin: windows on sessions, handles and processes, not forms. The only change on offer is to end them.

Plain ``ModelAdmin`` classes, to be subclassed and registered again by a project that wants them otherwise.
"""

from __future__ import annotations

from mcp_django.admin.handles import HandleAdmin
from mcp_django.admin.processes import ProcessAdmin
from mcp_django.admin.sessions import SessionAdmin

__all__ = ["HandleAdmin", "ProcessAdmin", "SessionAdmin"]
