"""The demo project's settings, as the tests need them."""

from __future__ import annotations

import os

from demo_project.oauth.settings import OAUTH2_PROVIDER as OAUTH2_PROVIDER
from demo_project.settings import *
from demo_project.settings import BASE_DIR, DATABASES
from demo_project.settings import INSTALLED_APPS as DEMO_APPS

# The tables of the demo's profile with OAuth. Its URLs are without it; the tests of OAuth have some of their own.
INSTALLED_APPS = [*DEMO_APPS, "demo_project.oauth", "oauth2_provider", "rest_framework.authtoken"]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file, because the in-memory database locks as soon as a second thread reads; one per process, so that
    # two test runs in one checkout do not remove each other's.
    cache = BASE_DIR / ".cache"
    cache.mkdir(exist_ok=True)
    DATABASES["default"]["TEST"] = {"NAME": cache / f"test-{os.getpid()}.sqlite3"}
