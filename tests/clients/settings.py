"""The settings of the live tests, a tool more, and clients that come back sooner."""

from __future__ import annotations

from tests.live.settings import *
from tests.live.settings import INSTALLED_APPS as LIVE_APPS

INSTALLED_APPS = [*LIVE_APPS, "tests.clients.tools"]
MCP_DJANGO_STREAM_RETRY = 0.3
