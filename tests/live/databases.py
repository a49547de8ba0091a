"""A scratch database on the server that `DATABASE_URL` names, and a look into it past Django."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo_project.database import from_url

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


@dataclass(frozen=True)
class Database:
    """One database that the servers under test share, reached by a connection of the tests' own."""

    url: str

    @property
    def settings(self) -> dict[str, Any]:
        return from_url(self.url, ROOT)

    @property
    def vendor(self) -> str:
        """`sqlite`, `postgresql` or `mysql`, as Django calls them."""
        return str(self.settings["ENGINE"]).rpartition(".")[2].replace("sqlite3", "sqlite")

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, or None where the database is a file or behind a Unix socket."""
        host, port = self.settings.get("HOST"), self.settings.get("PORT")
        return (host, int(port or DEFAULT_PORTS[self.vendor])) if host else None

    def url_through(self, port: int) -> str:
        """The same database as seen through a loopback port."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()

    def named(self, name: str) -> Database:
        """Another database on the same server."""
        return Database(urlsplit(self.url)._replace(path=f"/{name}").geturl())

    def connect(self) -> Any:
        """A driver's own connection, every statement committed at once."""
        settings = self.settings
        if self.vendor == "sqlite":
            return sqlite3.connect(settings["NAME"], timeout=20, isolation_level=None)
        known = {"host": settings["HOST"], "user": settings["USER"], "password": settings["PASSWORD"]}
        known = {key: value for key, value in known.items() if value} | settings["OPTIONS"]
        if settings["PORT"]:
            known["port"] = int(settings["PORT"])
        if self.vendor == "postgresql":
            import psycopg  # noqa: PLC0415 - optional, there where PostgreSQL is tested

            return psycopg.connect(dbname=settings["NAME"], autocommit=True, **known)
        import MySQLdb  # noqa: PLC0415 - optional, there where MariaDB is tested

        return MySQLdb.connect(database=settings["NAME"], autocommit=True, **known)

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement (placeholders are `%s` on every database) and return what it yields."""
        if self.vendor == "sqlite":
            sql = sql.replace("%s", "?")
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, sql: str, *parameters: object) -> Any:
        ((value,),) = self.rows(sql, *parameters)
        return value

    def tables(self) -> list[str]:
        match self.vendor:
            case "sqlite":
                sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
            case "postgresql":
                sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            case _:
                sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        return sorted(name for (name,) in self.rows(sql))

    def session(self, raw_id: str, *columns: str) -> tuple[Any, ...]:
        """Columns of the one row that stands for a raw session id."""
        digest = hashlib.sha256(raw_id.encode()).hexdigest()
        (row,) = self.rows(f"SELECT {', '.join(columns)} FROM mcp_django_session WHERE id = %s", digest)
        return row

    def unfinished_streams(self, raw_id: str | None) -> int:
        """How many of a session's exchanges have not had their last answer."""
        assert raw_id is not None
        of_session = "SELECT count(*) FROM mcp_django_stream WHERE session_id = %s"
        unfinished = f"{of_session} AND finished_at IS NULL AND standalone = %s"
        return int(self.value(unfinished, hashlib.sha256(raw_id.encode()).hexdigest(), False))

    def questions_of(self, raw_id: str | None) -> list[tuple[str, str]]:
        """Status and answer (JSON) of each question that a session was asked, in the order in which it was."""
        assert raw_id is not None
        asked = "SELECT status, answer_json FROM mcp_django_clientrequest WHERE session_id = %s ORDER BY asked_at"
        return [(status, answer) for status, answer in self.rows(asked, hashlib.sha256(raw_id.encode()).hexdigest())]

    def sessions_of(self, client_name: str) -> int:
        """How many sessions a client of that name has ever begun."""
        return int(self.value("SELECT count(*) FROM mcp_django_session WHERE client_name = %s", client_name))

    def end_connections(self) -> int:
        """End all connections that others hold to this database, as its server does when it restarts."""
        if self.vendor == "postgresql":
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            return len(self.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        others = "db = DATABASE() AND id <> CONNECTION_ID()"
        ids = [number for (number,) in self.rows(f"SELECT id FROM information_schema.processlist WHERE {others}")]
        for number in ids:
            self.rows(f"KILL {number}")
        return len(ids)

    def server_connections(self) -> int:
        """How many connections others hold to this database (PostgreSQL only)."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        return int(self.value(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"))


@contextmanager
def scratch_database(directory: Path) -> Iterator[Database]:
    """An empty database of its own name on the server of `DATABASE_URL`; a SQLite file when that is unset."""
    home = Database(os.environ.get("DATABASE_URL") or "sqlite:///unused.sqlite3")
    if home.vendor == "sqlite":
        yield Database(f"sqlite:///{directory / 'live.sqlite3'}")
        return
    scratch = f"mcp_live_{uuid.uuid4().hex[:12]}"
    home.rows(f"CREATE DATABASE {scratch}" + (" CHARACTER SET utf8mb4" if home.vendor == "mysql" else ""))
    try:
        yield home.named(scratch)
    finally:
        home.rows(f"DROP DATABASE {scratch}" + (" WITH (FORCE)" if home.vendor == "postgresql" else ""))
