"""A virtual environment for the peer that must not share ours: django-mcpz, under ``.cache/bench/``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.servers import ROOT

REQUIREMENTS = ("django-mcpz>=1.2,<2", "gunicorn>=23")
INSTALL_TIMEOUT = 120.0


@dataclass(frozen=True)
class Environment:
    python: Path
    version: str


def with_mcpz() -> Environment:
    """That environment, made at the first call; BenchmarkError if it cannot be had."""
    directory = ROOT / ".cache" / "bench" / f"mcpz-{sys.version_info.major}.{sys.version_info.minor}"
    python = directory / "bin" / "python"
    found = _version(python)
    if found is None:
        _install(directory, python)
        found = _version(python)
    if found is None:
        raise BenchmarkError(f"django-mcpz is installed under {directory.relative_to(ROOT)} and does not import.")
    return Environment(python, found)


def _version(python: Path) -> str | None:
    """The version of django-mcpz there; None if it, gunicorn or the environment itself is missing."""
    if not python.exists():
        return None
    program = "import django_mcpz, gunicorn, importlib.metadata as m; print(m.version('django-mcpz'))"
    finished = subprocess.run([str(python), "-c", program], capture_output=True, text=True, timeout=30, check=False)
    return finished.stdout.strip() if finished.returncode == 0 else None


def _install(directory: Path, python: Path) -> None:
    steps = (
        [sys.executable, "-m", "venv", str(directory)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
    )
    for step in steps:
        try:
            subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = str(error.stderr or error).strip().splitlines()[-1]
            raise BenchmarkError(f"{' '.join(REQUIREMENTS)} could not be installed: {reason}") from error
