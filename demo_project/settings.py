"""Settings of the demo; what a deployment would change comes from the environment.

DATABASE_URL    sqlite, postgres, mysql or mariadb (default: demo.sqlite3 beside manage.py)
REDIS_URL       the channel layer (default: in memory)
OAUTH           1 makes the demo an authorization server too, whose tokens the members' server takes (default: 0)
SESSION_STORE   "memory" keeps MCP sessions in the memory of one process (default: the database)
SECRET_KEY, DEBUG (1 or 0), ALLOWED_HOSTS (comma-separated, beside the local names)
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from demo_project import database

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-demo-key-do-not-use-in-production")
DEBUG = os.environ.get("DEBUG", "1").lower() in ("1", "true", "yes", "on")
OAUTH = os.environ.get("OAUTH", "0").lower() in ("1", "true", "yes", "on")
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    "testserver",
    *filter(None, os.environ.get("ALLOWED_HOSTS", "").split(",")),
]

INSTALLED_APPS = [
    # Gives runserver ASGI. Other servers do not need it and are spared the import of Twisted.
    *(["daphne"] if DEBUG and find_spec("daphne") else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "mcp_django",
    "mcp_django.tokens",
    "demo_project.library",
    "demo_project.everything",
    "demo_project.members",
    *(["demo_project.oauth", "oauth2_provider"] if OAUTH else []),
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo_project.urls"
ASGI_APPLICATION = "demo_project.asgi.application"
WSGI_APPLICATION = "demo_project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": database.from_url(os.environ.get("DATABASE_URL") or "sqlite:///demo.sqlite3", BASE_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if REDIS_URL := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL]},
        },
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

SESSION_STORES = {"database": "mcp_django.store.ORMStore", "memory": "mcp_django.memory.MemoryStore"}
SESSION_STORE = os.environ.get("SESSION_STORE") or "database"
if SESSION_STORE not in SESSION_STORES:
    raise ImproperlyConfigured(f"SESSION_STORE is {SESSION_STORE!r}, expected one of {', '.join(SESSION_STORES)}.")
MCP_DJANGO_SESSION_STORE = SESSION_STORES[SESSION_STORE]
# Whoever has a token, or is logged in to the admin in the same browser, is that user here; everybody else is welcome
# too, but for the members' server, which has a list of its own.
MCP_DJANGO_AUTHENTICATORS = [
    "mcp_django.tokens.BearerTokens",
    "mcp_django.auth.DjangoLogin",
    "mcp_django.auth.public",
]

MEMBERS_AUTHENTICATORS = ["mcp_django.tokens.BearerTokens", "mcp_django.auth.DjangoLogin"]

if OAUTH:
    from demo_project.oauth.settings import OAUTH2_PROVIDER as OAUTH2_PROVIDER

    # The first one's words are what a client is told whose token nobody takes.
    MEMBERS_AUTHENTICATORS.insert(0, "mcp_django.auth.OAuthToolkit")

# Tests and benchmarks come from one address, and faster than any client of its own.
MCP_DJANGO_MAX_ADDRESS_SESSIONS = 20_000
MCP_DJANGO_MAX_PRINCIPAL_SESSIONS = 20_000
MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE = None
MCP_DJANGO_MAX_CALLS_PER_MINUTE = None
MCP_DJANGO_MAX_COMPLETIONS_PER_MINUTE = None
MCP_DJANGO_MAX_SESSION_CALLS = 128

# The library and everything are open on purpose.
SILENCED_SYSTEM_CHECKS = ["mcp_django.W006"]

STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True
