"""The server at /everything/mcp; what it offers is registered by the modules that mcp.py imports."""

from __future__ import annotations

from mcp_django import MCPServer

everything = MCPServer(
    "everything",
    title="Everything",
    version="1.0",
    instructions="Every protocol feature once, for tests and benchmarks. Start with session_info.",
)
