"""The demo with every logger at DEBUG, a deadline to choose, and the live tests' own server at /live/mcp."""

from __future__ import annotations

import os
from datetime import timedelta

from demo_project.settings import *
from demo_project.settings import INSTALLED_APPS as DEMO_APPS

# The app named daphne is for runserver alone, and Twisted would cost every start a quarter more.
RUNSERVER = os.environ.get("LIVE_RUNSERVER") == "1"
INSTALLED_APPS = [*(app for app in DEMO_APPS if app != "daphne" or RUNSERVER), "tests.live.app"]
ROOT_URLCONF = "tests.live.urls"

# Longer than in production: on a busy machine a visit may take as long as one to a database that is away.
MCP_DJANGO_STORE_TIMEOUT = float(os.environ.get("LIVE_STORE_TIMEOUT", "20"))
if STREAM_RETENTION := os.environ.get("LIVE_STREAM_RETENTION"):
    MCP_DJANGO_STREAM_RETENTION = timedelta(seconds=float(STREAM_RETENTION))
if TRUSTED_PROXIES := os.environ.get("LIVE_TRUSTED_PROXIES"):
    MCP_DJANGO_TRUSTED_PROXIES = TRUSTED_PROXIES.split(",")
if ADDRESS_SESSIONS := os.environ.get("LIVE_ADDRESS_SESSIONS"):
    MCP_DJANGO_MAX_ADDRESS_SESSIONS = int(ADDRESS_SESSIONS)

# What is written here is searched for session ids and tokens: DEBUG shows the worst.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        name: {"level": os.environ.get("LIVE_LOG_LEVEL", "DEBUG"), "handlers": ["console"], "propagate": False}
        for name in ("django", "mcp_django", "mcp")
    },
}
# Two files are watched for changes at DEBUG, every second: noise.
LOGGING["loggers"]["django.utils.autoreload"] = {"level": "INFO"}  # type: ignore[index]
