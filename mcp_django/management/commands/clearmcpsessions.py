"""Deletes MCP sessions, streams and what belongs to them once they are over for long enough."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from mcp_django.pruning import prune


class Command(BaseCommand):
    help = "Mark overdue MCP sessions as expired, and delete sessions, streams and the like that are long over."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be done.")
        parser.add_argument(
            "--batch-size",
            type=positive,
            default=1000,
            help="How many rows one transaction deletes at most (default: %(default)d).",
        )

    def handle(self, *, dry_run: bool, batch_size: int, verbosity: int, **options: Any) -> None:
        try:
            pruned = prune(dry_run=dry_run, batch=batch_size)
        except (DatabaseError, ImproperlyConfigured) as error:
            raise CommandError(f"MCP sessions could not be pruned: {error}") from error
        if verbosity > 0:
            self.stdout.write(f"{'Would prune' if dry_run else 'Pruned'} {pruned}")


def positive(text: str) -> int:
    """A whole number above zero, as an argument."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)
