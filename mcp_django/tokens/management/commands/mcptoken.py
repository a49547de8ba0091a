"""Makes, lists and revokes the bearer tokens by which MCP clients call as a user."""

from __future__ import annotations

from argparse import SUPPRESS
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from mcp_django.management.commands.clearmcpsessions import positive
from mcp_django.server import servers
from mcp_django.tokens.models import Token

MIN_PREFIX = 6


class Command(BaseCommand):
    help = "Make, list and revoke the bearer tokens by which MCP clients call as a user."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create | list | revoke")
        create = actions.add_parser("create", help="Make a token, and print it alone on the last line.")
        create.add_argument("username", help="Whom it speaks for.")
        create.add_argument("--name", default="", help="What it is for.")
        create.add_argument("--server", default="", help="The only server that it is valid on (default: all).")
        create.add_argument(
            "--scope", action="append", default=[], dest="scopes", help="What it is limited to; may be repeated."
        )
        create.add_argument("--days", type=positive, help="How long it is valid (default: until it is revoked).")
        shown = actions.add_parser("list", help="List tokens, the newest first; the tokens themselves are not stored.")
        shown.add_argument("--user", dest="username", help="Only those of this user.")
        revoke = actions.add_parser("revoke", help="Revoke all tokens of a user, or one.")
        which = revoke.add_mutually_exclusive_group(required=True)
        which.add_argument("--user", dest="username", help="All of this user's.")
        which.add_argument("digest", nargs="?", default=SUPPRESS, help="The one that `list` shows with this digest.")
        for action in (create, shown, revoke):
            # Django takes these before the action only; people write them at the end.
            for names in (("--settings",), ("--pythonpath",)):
                action.add_argument(*names, default=SUPPRESS, help=SUPPRESS)
            action.add_argument("-v", "--verbosity", type=int, choices=range(4), default=SUPPRESS, help=SUPPRESS)
            for name in ("--traceback", "--no-color", "--force-color"):
                action.add_argument(name, action="store_true", default=SUPPRESS, help=SUPPRESS)

    def handle(self, *, action: str, **options: Any) -> None:
        match action:
            case "create":
                self.create(**options)
            case "list":
                self.show(options["username"])
            case _:
                self.revoke(options["username"], options.get("digest"))

    def create(
        self, *, username: str, name: str, server: str, scopes: list[str], days: int | None, verbosity: int, **_: Any
    ) -> None:
        user = user_named(username)
        if not getattr(user, "is_active", True):
            raise CommandError(f"The user {username!r} is not active, so no token of theirs would be valid.")
        known = sorted(one.name for one in servers())
        if server and server not in known:
            raise CommandError(f"There is no server {server!r}. Known are {', '.join(known)}.")
        try:
            row, raw_token = Token.objects.issue(
                user,
                name=name,
                server=server,
                scopes=scopes,
                expires_at=timezone.now() + timedelta(days=days) if days else None,
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        if verbosity > 0:
            self.stdout.write(f"Token {row.short_id} for {username}. It is shown this once; only its digest is stored.")
        self.stdout.write(raw_token)

    def show(self, username: str | None) -> None:
        rows = Token.objects.select_related("user")
        if username is not None:
            rows = rows.of_user(user_named(username))
        table = [("DIGEST", "USER", "NAME", "SERVER", "SCOPES", "CREATED", "LAST USED", "EXPIRES", "STATE")]
        table += [
            (
                row.short_id,
                row.user.get_username(),
                row.name or "-",
                row.server or "(all)",
                row.scopes or "(not limited)",
                f"{row.created_at:%Y-%m-%d %H:%M}",
                f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never",
                f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "never",
                row.state,
            )
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def revoke(self, username: str | None, digest: str | None) -> None:
        if username is not None:
            count = Token.objects.of_user(user_named(username)).revoke_all()
            self.stdout.write(f"Tokens of {username} revoked: {count}.")
        else:
            token = token_with(digest or "")
            done = "Revoked" if token.revoke() else "Revoked or expired before:"
            self.stdout.write(f"{done} token {token.short_id} of {token.user.get_username()}.")


def user_named(username: str) -> Any:
    """The user with this name, whatever field the project's users are named by.

    Raises:
        CommandError: there is none.
    """
    model = get_user_model()
    try:
        return model._default_manager.get(**{model.USERNAME_FIELD: username})
    except model.DoesNotExist:
        field: Any = model._meta.get_field(model.USERNAME_FIELD)
        raise CommandError(
            f"There is no user with the {field.verbose_name} {username!r}. Make one in the admin, or with "
            "manage.py createsuperuser."
        ) from None


def token_with(digest: str) -> Token:
    """The token whose digest begins so.

    Raises:
        CommandError: there is none, or there are several, or too little is given to tell.
    """
    if len(digest) < MIN_PREFIX:
        raise CommandError(
            f"Give at least {MIN_PREFIX} characters of the digest, as `manage.py mcptoken list` shows it."
        )
    found = list(Token.objects.select_related("user").filter(pk__startswith=digest.lower())[:2])
    if len(found) != 1:
        problem = "several tokens" if found else "no token"
        raise CommandError(f"There are {problem} whose digest begins with {digest!r}; see `manage.py mcptoken list`.")
    return found[0]
