"""Fresh SQLite databases with this project's tables: migrated once, then copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.servers import ROOT, django_environment

MIGRATE_TIMEOUT = 120.0


class Databases:
    """Hands out databases inside one temporary directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._template = directory / "template.sqlite3"
        self._handed_out = 0

    def fresh(self) -> Path:
        if not self._template.exists():
            self._migrate()
        self._handed_out += 1
        database = self._directory / f"{self._handed_out}.sqlite3"
        shutil.copyfile(self._template, database)
        return database

    def _migrate(self) -> None:
        # No write-ahead log is left beside the file once its only connection is closed: copying it is enough.
        command = [sys.executable, str(ROOT / "manage.py"), "migrate", "--verbosity", "0"]
        environment = {**os.environ, **django_environment(self._template)}
        finished = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=MIGRATE_TIMEOUT,
            check=False,
        )
        if finished.returncode != 0:
            raise BenchmarkError(f"The demo project's tables could not be made:\n{_tail(finished.stderr)}")


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-5:])
