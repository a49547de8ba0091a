"""The command and the task that prune: thin edges of one function."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from mcp_django.management.commands import clearmcpsessions
from mcp_django.models import Session
from mcp_django.pruning import Pruned
from mcp_django.tasks import prune_sessions
from tests.unit import records
from tests.unit.test_import import modules_after, of_the_sdk

SUMMARY = (
    "expired: 1, sessions: 1, streams: 0, events: 0, client requests: 0, cancellations: 0, handles: 1, tokens: 0, "
    "processes: 0"
)


def clear(*arguments: str, **options: Any) -> str:
    """What the command writes."""
    stdout, stderr = StringIO(), StringIO()
    call_command("clearmcpsessions", *arguments, stdout=stdout, stderr=stderr, **options)
    assert stderr.getvalue() == ""
    return stdout.getvalue()


@pytest.fixture
def rows() -> None:
    """A session to delete, one to mark, one to leave alone; a handle to delete, one to leave alone."""
    now = timezone.now()
    records.row(status="terminated", ended_at=now - timedelta(days=8))
    records.row(expires_at=now - timedelta(minutes=1), initialized_at=now - timedelta(hours=1))
    records.row()
    records.handle_row(expires_at=now)
    records.handle_row()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments with which the command prunes."""
    found: list[dict[str, Any]] = []

    def note(**arguments: Any) -> Pruned:
        found.append(arguments)
        return Pruned()

    monkeypatch.setattr(clearmcpsessions, "prune", note)
    return found


@pytest.mark.django_db
@pytest.mark.usefixtures("rows")
class TestCommand:
    def test_says_what_it_has_pruned(self) -> None:
        assert clear() == f"Pruned {SUMMARY}\n"
        assert sorted(Session.objects.values_list("status", flat=True)) == ["active", "expired"]

    def test_a_dry_run_says_the_same_and_does_nothing(self) -> None:
        before = sorted(Session.objects.values_list(), key=repr)
        assert clear("--dry-run") == f"Would prune {SUMMARY}\n"
        assert sorted(Session.objects.values_list(), key=repr) == before
        assert clear() == f"Pruned {SUMMARY}\n"

    def test_is_silent_with_verbosity_0(self) -> None:
        assert clear("--verbosity", "0") == ""
        assert Session.objects.count() == 2

    def test_a_wrong_setting_is_an_error_that_names_it(self) -> None:
        with (
            override_settings(MCP_DJANGO_TOMBSTONE_RETENTION=7),
            pytest.raises(CommandError, match="MCP_DJANGO_TOMBSTONE_RETENTION must be a timedelta, got 7"),
        ):
            clear()


def test_the_batch_size_is_an_argument(calls: list[dict[str, Any]]) -> None:
    clear()
    clear("--batch-size", "50", "--dry-run")
    assert calls == [{"dry_run": False, "batch": 1000}, {"dry_run": True, "batch": 50}]


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "many", "²", ""])
def test_a_batch_size_that_is_none_is_refused(size: str, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(CommandError, match="expected a whole number above 0"):
        clear(f"--batch-size={size}")
    assert calls == []


def test_trouble_with_the_database_is_an_error_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(**arguments: Any) -> Pruned:
        raise OperationalError("the database is away")

    monkeypatch.setattr(clearmcpsessions, "prune", trouble)
    with pytest.raises(CommandError, match="could not be pruned: the database is away"):
        clear()


@pytest.mark.parametrize("module", ["mcp_django.management.commands.clearmcpsessions", "mcp_django.tasks"])
def test_importing_it_does_not_load_the_sdk(module: str) -> None:
    modules = modules_after(f"import django\ndjango.setup()\nimport {module}")
    assert module in modules
    assert not of_the_sdk(modules)


needs_tasks = pytest.mark.skipif(find_spec("django.tasks") is None, reason="Django has tasks since 6.0")


@needs_tasks
@pytest.mark.django_db
@pytest.mark.usefixtures("rows")
def test_the_task_prunes_and_its_result_is_the_counts() -> None:
    with override_settings(TASKS={"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}):
        result = prune_sessions.enqueue()
    assert result.return_value == {
        "expired": 1,
        "sessions": 1,
        "streams": 0,
        "events": 0,
        "client_requests": 0,
        "cancellations": 0,
        "handles": 1,
        "tokens": 0,
        "processes": 0,
    }
    assert Session.objects.count() == 2


def test_without_tasks_in_django_the_module_has_a_plain_function() -> None:
    modules_after(
        "import sys\n"
        "sys.modules['django.tasks'] = None\n"
        "import django\n"
        "django.setup()\n"
        "from mcp_django.tasks import prune_sessions\n"
        "assert callable(prune_sessions)\n"
        "assert not hasattr(prune_sessions, 'enqueue')\n"
    )
