"""Build the package, look into it, and use it in a clean environment outside of this checkout."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
NOT_CODE = ("__pycache__", ".pyc", ".sqlite3")

SETTINGS = """
SECRET_KEY = "only for this check"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "project"
ASGI_APPLICATION = "project.application"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "check.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "mcp_django",
    "mcp_django.tokens",
]
MCP_DJANGO_AUTHENTICATORS = ["mcp_django.tokens.BearerTokens", "mcp_django.auth.public"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
"""

PROJECT = """
from django.contrib import admin
from django.urls import include, path
from mcp_django.asgi import get_asgi_application

urlpatterns = [path("admin/", admin.site.urls), path("", include("mcp_django.urls"))]
application = get_asgi_application()
"""

# What a project does with the installed package: start up, migrate, let a client shake hands, see its row.
USE = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
call_command("makemigrations", "mcp_django", "mcp_tokens", "--check", "--dry-run")

import project
from mcp_django.models import Session

params = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "wheel", "version": "1"},
}
response = Client().post(
    "/mcp",
    json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}),
    content_type="application/json",
    headers={"Accept": "application/json, text/event-stream"},
)
assert response.status_code == 200, (response.status_code, response.content)
session = Session.objects.for_id(response.headers["Mcp-Session-Id"])
assert session.client_name == "wheel", session.client_name
print("a client shook hands, and its session is in the database")
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        inspect(wheel)
        use(wheel, folder)


def build(folder: Path) -> Path:
    """The wheel is built from the source distribution, so both are known to be whole."""
    run(sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT), cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def inspect(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "mcp_django"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and not any(part in path.as_posix() for part in NOT_CODE)
    }
    if names != expected:
        sys.exit(
            "The wheel does not hold just the package mcp_django as it is in the tree.\n"
            f"Missing: {sorted(expected - names)}\nToo much: {sorted(names - expected)}"
        )
    print(f"{wheel.name} holds the {len(names)} files of mcp_django and nothing else")


def use(wheel: Path, folder: Path) -> None:
    project = folder / "project"
    project.mkdir()
    (project / "settings.py").write_text(SETTINGS)
    (project / "project.py").write_text(PROJECT)
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", str(wheel), cwd=folder)
    run(python, "-m", "django", "check", "--settings", "settings", cwd=project)
    run(python, "-c", USE, cwd=project)


def run(*command: str, cwd: Path) -> None:
    finished = subprocess.run(command, cwd=cwd, check=False)
    if finished.returncode:
        shown = " ".join(part if "\n" not in part else "(a script)" for part in command)
        sys.exit(f"failed with {finished.returncode}: {shown}")


if __name__ == "__main__":
    main()
