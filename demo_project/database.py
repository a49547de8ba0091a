"""A database URL as Django's settings dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

SERVERS = {
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
    "mariadb": "django.db.backends.mysql",
}

# Threads and processes write at once. WAL lets readers go on meanwhile. IMMEDIATE takes the lock at BEGIN:
# a transaction that reads first and then writes would fail at once, whatever the timeout. NORMAL survives the
# death of the process, though not of the machine.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}


def from_url(url: str, base_dir: Path) -> dict[str, Any]:
    """The settings for ``url``; a relative SQLite path starts at ``base_dir``."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return sqlite(parts, base_dir)
    if parts.scheme in SERVERS:
        return server(parts)
    # Only the scheme: the rest may hold a password.
    raise ImproperlyConfigured(
        f"DATABASE_URL starts with {parts.scheme!r}, expected sqlite, postgres, mysql or mariadb, "
        "for example postgres://user:password@localhost:5432/name or sqlite:///demo.sqlite3."
    )


def sqlite(parts: SplitResult, base_dir: Path) -> dict[str, Any]:
    """``sqlite:///file`` is relative, ``sqlite:////file`` absolute."""
    name = unquote(parts.path).removeprefix("/")
    if parts.netloc or not name or name == ":memory:":
        raise ImproperlyConfigured(
            "DATABASE_URL for SQLite must name a file: sqlite:///demo.sqlite3 (beside manage.py) or "
            "sqlite:////tmp/demo.sqlite3 (absolute). One in memory locks as soon as a second thread reads."
        )
    path = base_dir / name
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": SQLITE_OPTIONS | options(parts),
        # Without a name Django tests in memory, see above.
        "TEST": {"NAME": path.with_name(f"test_{path.name}")},
    }


def server(parts: SplitResult) -> dict[str, Any]:
    """No host means the driver's own socket; ``?host=/path`` (MySQL ``?unix_socket=/path``) names another."""
    name = unquote(parts.path).removeprefix("/")
    if not name:
        raise ImproperlyConfigured(
            f"DATABASE_URL names no database; write {parts.scheme}://user:password@host:port/NAME."
        )
    try:
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured("The port in DATABASE_URL must be a number from 0 to 65535.") from None
    return {
        "ENGINE": SERVERS[parts.scheme],
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(port or ""),
        "OPTIONS": options(parts),
    }


def options(parts: SplitResult) -> dict[str, Any]:
    """The query as driver options: ``?connect_timeout=5&sslmode=require``."""
    return {key: int(value) if value.isascii() and value.isdigit() else value for key, value in parse_qsl(parts.query)}
