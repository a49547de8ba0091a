"""Prepare the demo and serve it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from demo_project.library import clients, fill
from demo_project.library.models import Book, Member

HOST = "127.0.0.1"
ADMIN = "admin"


class Command(BaseCommand):
    help = "Migrate and fill the database, make an admin login, say where everything is, and serve it all."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=os.environ.get("PORT") or 8000, help="default: $PORT, or 8000")
        parser.add_argument("--no-server", action="store_true", help="only prepare, start no server")

    def handle(self, *, port: int, no_server: bool, **options: Any) -> None:
        if not no_server:
            check_port(port)
        call_command("migrate", interactive=False, verbosity=0)
        fill.fill()
        password = make_admin()
        self.stdout.write(guide(f"http://{HOST}:{port}", password))
        if not no_server:
            serve(port)


def check_port(port: int) -> None:
    """Fail before the work begins rather than after it."""
    if not 0 < port < 65536:
        raise CommandError(f"The port must be a number from 1 to 65535, got {port}.")
    with socket.socket() as probe:
        # As the server does it, so that connections that linger from its last run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = {errno.EADDRINUSE: "in use by another program", errno.EACCES: "reserved by the system"}
            raise CommandError(
                f"Port {port} on {HOST} is {reason.get(error.errno or 0, error.strerror)}. "
                f"Choose another one: make demo PORT={port + 1 if 1024 <= port < 65535 else 8001}"
            ) from None


def make_admin() -> str:
    """The admin login, made on the first run. Returns what to print as its password."""
    chosen = os.environ.get("DEMO_ADMIN_PASSWORD")
    user = get_user_model().objects.filter(username=ADMIN).first()
    if user is None:
        user = get_user_model().objects.create_superuser(ADMIN, password=chosen or ADMIN)
        Member.objects.filter(card=fill.card(1), user=None).update(user=user)
    elif chosen and not user.check_password(chosen):
        user.set_password(chosen)
        user.save(update_fields=["password"])
    if chosen:
        return "(from DEMO_ADMIN_PASSWORD)"
    return ADMIN if user.check_password(ADMIN) else "(as you set it)"


def guide(base_url: str, password: str) -> str:
    """What is where, and how to connect."""
    lines = [
        "",
        f"  Home     {base_url}/",
        f"  Admin    {base_url}/admin/   login: {ADMIN} / {password}",
        *(f"  MCP      {endpoint.url}   {endpoint.description}" for endpoint in clients.endpoints(base_url)),
        f"  {clients.TOKEN}    {token_command()}",
        "",
        f"  {Book.objects.count()} books, {Member.objects.count()} members "
        f"(cards {fill.card(1)} to {fill.card(fill.MEMBERS)}), database: {database_name()}",
    ]
    for configuration in clients.configurations(base_url):
        lines += [
            "",
            f"{configuration.client}:",
            "",
            *(f"  {line}" for line in configuration.text.splitlines()),
        ]
    return "\n".join([*lines, ""])


def token_command() -> str:
    """What makes a token, with the interpreter that runs this, so that no environment need be entered."""
    python = Path(sys.executable)
    if python.is_relative_to(settings.BASE_DIR):
        python = python.relative_to(settings.BASE_DIR)
    return f"{python} manage.py mcptoken create {ADMIN}"


def database_name() -> str:
    database = settings.DATABASES["default"]
    return f"{database['ENGINE'].rpartition('.')[2]} {database['NAME']}"


def serve(port: int) -> None:
    """Become the server, so that signals reach it and its exit status is this command's."""
    connections.close_all()
    sys.stdout.flush()
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "uvicorn", "demo_project.asgi:application"),
            *("--host", HOST, "--port", str(port), "--app-dir", str(settings.BASE_DIR)),
            # A client that keeps its stream open must not hold up Ctrl-C.
            *("--timeout-graceful-shutdown", "5"),
        ],
    )
