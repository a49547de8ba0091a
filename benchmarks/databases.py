"""Fresh databases with this project's tables: SQLite files, migrated once and then copied; and one on a server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError
from benchmarks.report import progress
from benchmarks.servers import ROOT, django_environment

TIMEOUT = 120.0
SERVERS = {"postgres": "PostgreSQL", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}


class Databases:
    """Hands out databases.

    Args:
        directory: a temporary one, for the files.
        server_url: a database on a server, beside which another can be made; "" if there is none.
    """

    def __init__(self, directory: Path, server_url: str = "") -> None:
        self._directory = directory
        self._server_url = server_url
        self._template = directory / "template.sqlite3"
        self._handed_out = 0

    def fresh(self) -> Path:
        """A new SQLite database."""
        if not self._template.exists():
            # No write-ahead log is left beside the file once its only connection is closed: copying it is enough.
            _run("manage.py", "migrate", "--verbosity", "0", database=self._template)
        self._handed_out += 1
        database = self._directory / f"{self._handed_out}.sqlite3"
        shutil.copyfile(self._template, database)
        return database

    def tokens(self, database: Path, count: int) -> tuple[str, ...]:
        """Bearer tokens of as many users, who are made for it."""
        return tuple(_run("-m", "benchmarks.workers.tokens", str(count), database=database).split())

    @contextmanager
    def each(self) -> Iterator[dict[str, Path | str]]:
        """A new database of each kind that there is, by the kind's name."""
        parts = urlsplit(self._server_url)
        if parts.scheme not in SERVERS:
            progress("without a database server: DATABASE_URL names none")
            yield {"SQLite": self.fresh()}
            return
        url = parts._replace(path=f"/benchmarks_{os.getpid()}").geturl()
        _run("-m", "benchmarks.workers.database", "create", database=url)
        try:
            _run("manage.py", "migrate", "--verbosity", "0", database=url)
            yield {"SQLite": self.fresh(), SERVERS[parts.scheme]: url}
        finally:
            _run("-m", "benchmarks.workers.database", "drop", database=url)


def _run(*arguments: str, database: Path | str) -> str:
    """Run Python with a database's environment, and return what it prints."""
    environment = {**os.environ, **django_environment(database)}
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if finished.returncode != 0:
        tail = "\n".join(finished.stderr.strip().splitlines()[-5:])
        raise BenchmarkError(f"{' '.join(arguments)} failed:\n{tail}")
    return finished.stdout
