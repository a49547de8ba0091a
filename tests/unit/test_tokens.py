"""Bearer tokens of the project's own: the rows, the command, the authenticator in sync code, what a project lacks."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.core import checks as django_checks
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import RequestFactory, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from demo_project.members.server import members
from mcp_django import MCPServer
from mcp_django.auth import AuthenticationFailed, Principal
from mcp_django.checks import authenticators_have_what_they_need
from mcp_django.pruning import prune
from mcp_django.testing import ClientError, connect
from mcp_django.tokens import BearerTokens, authenticators
from mcp_django.tokens.models import PREFIX, Token
from tests.unit.test_import import modules_after, of_the_sdk

HOUR = timedelta(hours=1)


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


class TestRows:
    def test_a_token_is_found_by_itself_and_stored_as_its_digest_only(self, alice: User) -> None:
        row, raw_token = Token.objects.issue(alice, name="laptop")
        assert raw_token.startswith(PREFIX)
        assert Token.objects.for_token(raw_token) == row
        stored = str(Token.objects.values().get())
        assert raw_token.removeprefix(PREFIX) not in stored
        assert raw_token.removeprefix(PREFIX) not in f"{row!r} {row} {vars(row)}"

    def test_no_two_are_alike(self, alice: User) -> None:
        assert len({Token.objects.issue(alice)[1] for _ in range(50)}) == 50

    def test_one_that_was_never_made_does_not_exist(self, alice: User) -> None:
        with pytest.raises(Token.DoesNotExist):
            Token.objects.for_token(f"{PREFIX}forged")

    def test_it_is_active_until_it_is_revoked_or_expires(self, alice: User) -> None:
        now = timezone.now()
        lasting, _raw = Token.objects.issue(alice)
        ending, _raw = Token.objects.issue(alice, expires_at=now + HOUR)
        revoked, _raw = Token.objects.issue(alice)
        assert revoked.revoke()
        assert set(Token.objects.active()) == {lasting, ending}
        assert set(Token.objects.active(now + HOUR)) == {lasting}
        assert set(Token.objects.over(now + HOUR)) == {ending, revoked}
        revoked.refresh_from_db()
        assert [row.state for row in (lasting, ending, revoked)] == ["active", "active", "revoked"]

    def test_revoking_happens_once_and_leaves_the_moment_alone(self, alice: User) -> None:
        row, _raw = Token.objects.issue(alice)
        assert row.revoke() is True
        row.refresh_from_db()
        revoked_at = row.revoked_at
        assert row.revoke() is False
        row.refresh_from_db()
        assert row.revoked_at == revoked_at

    def test_all_of_a_user_are_revoked_and_nobody_elses(self, alice: User, bob: User) -> None:
        for user in (alice, alice, bob):
            Token.objects.issue(user)
        assert Token.objects.of_user(alice).revoke_all() == 2
        assert Token.objects.of_user(alice).revoke_all() == 0
        assert [row.user for row in Token.objects.active()] == [bob]

    def test_a_use_moves_forward_in_steps_and_never_backward(self, alice: User) -> None:
        row, _raw = Token.objects.issue(alice)
        rows, now = Token.objects.filter(pk=row.pk), timezone.now()
        minute = timedelta(minutes=1)
        assert [rows.touch(now + offset, minute) for offset in (0 * minute, minute / 2, -HOUR, minute)] == [1, 0, 0, 1]

    @pytest.mark.parametrize("scopes", [["two words"], [""], ['"'], ["\n"], ["é"]])
    def test_what_is_no_scope_is_refused(self, alice: User, scopes: Any) -> None:
        with pytest.raises(ValidationError):
            Token.objects.issue(alice, scopes=scopes)

    def test_a_text_is_no_list_of_scopes(self, alice: User) -> None:
        with pytest.raises(TypeError, match="it was given 'read'"):
            Token.objects.issue(alice, scopes="read")

    def test_scopes_are_kept_in_their_order_and_once(self, alice: User) -> None:
        row, _raw = Token.objects.issue(alice, scopes=["b", "a", "b"])
        assert row.scopes == "b a"


class TestSync:
    """The authenticator in sync code: in a project's own views, say."""

    def ask(self, header: str | None) -> Principal | None:
        headers = {} if header is None else {"Authorization": header}
        return BearerTokens().authenticate(RequestFactory().post("/mcp", headers=headers))

    def test_a_token_speaks_for_its_user_with_one_query_for_both(self, alice: User) -> None:
        _row, raw_token = Token.objects.issue(alice)
        self.ask(f"Bearer {raw_token}")
        with CaptureQueriesContext(connection) as captured:
            principal = self.ask(f"bearer {raw_token}")
            assert principal is not None
            assert principal.user == alice
            assert [getattr(principal.user, f.attname) for f in User._meta.concrete_fields] == list(
                User.objects.filter(pk=alice.pk).values_list().get()
            )
        # The token with its user, and the test's own; the use was noted before.
        assert len(captured) == 2
        assert principal.key == Principal.key_of(alice.pk)
        assert principal.scopes is None

    def test_scopes_limit_it(self, alice: User) -> None:
        _row, raw_token = Token.objects.issue(alice, scopes=["read"])
        principal = self.ask(f"Bearer {raw_token}")
        assert principal is not None
        assert principal.scopes == frozenset({"read"})
        assert principal.can_step_up is False

    @pytest.mark.parametrize("header", [None, "", "Basic YTpi", "Bearertoken", "Token x"])
    def test_other_credentials_are_left_to_others(self, db: None, header: str | None) -> None:
        assert self.ask(header) is None

    @pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Bearer é"])
    def test_what_is_no_token_fails(self, db: None, header: str) -> None:
        with pytest.raises(AuthenticationFailed):
            self.ask(header)

    def test_a_token_of_one_server_is_not_valid_elsewhere_in_the_project(self, alice: User) -> None:
        _row, raw_token = Token.objects.issue(alice, server="members")
        with pytest.raises(AuthenticationFailed):
            self.ask(f"Bearer {raw_token}")

    def test_a_use_is_noted(self, alice: User) -> None:
        row, raw_token = Token.objects.issue(alice)
        self.ask(f"Bearer {raw_token}")
        row.refresh_from_db()
        assert row.last_used_at is not None


class InATransaction(TestCase):
    async def test_a_project_that_tests_in_a_transaction_can_use_tokens(self) -> None:
        user = await User.objects.acreate(username="alice")
        row, raw_token = await sync_to_async(Token.objects.issue)(user)
        headers = {"Authorization": f"Bearer {raw_token}"}
        async with connect(members, headers=headers) as client:
            result = await client.call_tool("whoami")
        assert result["structuredContent"] == {"user": "alice"}
        await sync_to_async(row.revoke)()
        with pytest.raises(ClientError) as caught:
            async with connect(members, headers=headers):
                pass
        assert caught.value.status == 401


class TestProject:
    def test_the_app_is_missed_by_a_check_with_a_hint(self, no_servers: None) -> None:
        server = MCPServer("wants-tokens", authenticators=["mcp_django.tokens.BearerTokens"])
        apps = [app for app in settings.INSTALLED_APPS if app != "mcp_django.tokens"]
        assert list(authenticators_have_what_they_need(None)) == []
        with override_settings(INSTALLED_APPS=apps):
            (message,) = list(authenticators_have_what_they_need(None))
        assert message.id == "mcp_django.E006"
        assert "mcp_django.tokens" in message.msg
        assert "INSTALLED_APPS" in str(message.hint)
        assert server.authenticators

    def test_the_check_is_registered(self) -> None:
        assert authenticators_have_what_they_need in django_checks.registry.registry.get_checks()

    def test_without_the_app_a_request_says_what_to_do(self) -> None:
        authenticators.uses.cache_clear()
        apps = [app for app in settings.INSTALLED_APPS if app != "mcp_django.tokens"]
        request = RequestFactory().post("/mcp", headers={"Authorization": "Bearer x"})
        with (
            override_settings(INSTALLED_APPS=apps),
            pytest.raises(ImproperlyConfigured, match=r"INSTALLED_APPS and run manage\.py migrate"),
        ):
            BearerTokens().authenticate(request)

    def test_importing_the_app_before_django_is_set_up_loads_neither_models_nor_sdk(self) -> None:
        modules = modules_after("import mcp_django.tokens")
        assert "mcp_django.tokens.models" not in modules
        assert not of_the_sdk(modules)

    def test_the_authenticator_can_be_imported_without_the_app(self) -> None:
        modules = modules_after(
            "from django.conf import settings\n"
            "settings.configure(INSTALLED_APPS=['django.contrib.auth', 'django.contrib.contenttypes', 'mcp_django'])\n"
            "import django\ndjango.setup()\nfrom mcp_django.tokens import BearerTokens\nBearerTokens()\n"
        )
        assert "mcp_django.tokens.models" not in modules


def run(*arguments: str, **options: Any) -> list[str]:
    """The lines that the command prints."""
    stdout, stderr = StringIO(), StringIO()
    call_command("mcptoken", *arguments, stdout=stdout, stderr=stderr, **options)
    assert stderr.getvalue() == ""
    return stdout.getvalue().splitlines()


class TestCommand:
    def test_it_makes_a_token_and_prints_it_alone_on_the_last_line(self, alice: User) -> None:
        lines = run("create", "alice")
        row = Token.objects.for_token(lines[-1])
        assert (row.user, row.name, row.server, row.scopes, row.expires_at) == (alice, "", "", "", None)
        assert lines[-1] not in "".join(lines[:-1])
        assert len(run("create", "alice", verbosity=0)) == 1

    def test_its_options_limit_it(self, alice: User) -> None:
        options = ("--name", "report", "--server", "members", "--scope", "read", "--scope", "write", "--days", "2")
        row = Token.objects.for_token(run("create", "alice", *options)[-1])
        assert (row.name, row.server, row.scopes) == ("report", "members", "read write")
        assert row.expires_at is not None
        assert abs(row.expires_at - timezone.now() - timedelta(days=2)) < HOUR

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["create", "nobody"], "no user with the username 'nobody'. Make one in the admin, or with"),
            (["create", "idle"], "'idle' is not active"),
            (["create", "alice", "--server", "nowhere"], "no server 'nowhere'. Known are"),
            (["create", "alice", "--scope", "a b"], "'a b' is no scope"),
            (["create", "alice", "--days", "0"], "whole number above 0"),
            (["list", "--user", "nobody"], "no user with the username 'nobody'"),
            (["revoke", "--user", "nobody"], "no user with the username 'nobody'"),
            (["revoke", "abc"], "at least 6 characters"),
            (["revoke", "abcdef012345"], "no token whose digest begins with 'abcdef012345'"),
            (["revoke"], "required"),
            ([], "required"),
        ],
    )
    def test_a_mistake_is_told_with_what_to_do(self, alice: User, arguments: list[str], told: str) -> None:
        User.objects.create_user("idle", is_active=False)
        with pytest.raises(CommandError, match=told.replace(".", r"\.")):
            run(*arguments)
        assert not Token.objects.exists()

    def test_it_lists_tokens_without_showing_them(self, alice: User, bob: User) -> None:
        row, raw_token = Token.objects.issue(alice, name="laptop", scopes=["read"])
        gone, _raw = Token.objects.issue(bob)
        gone.revoke()
        head, *lines = run("list")
        assert head.split()[:2] == ["DIGEST", "USER"]
        assert [line.split()[:2] for line in lines] == [[gone.short_id, "bob"], [row.short_id, "alice"]]
        assert [line.split()[-1] for line in lines] == ["revoked", "active"]
        assert raw_token not in "".join(lines)
        assert len(run("list", "--user", "alice")) == 2

    def test_it_revokes_all_of_a_user(self, alice: User, bob: User) -> None:
        for user in (alice, alice, bob):
            Token.objects.issue(user)
        assert run("revoke", "--user", "alice") == ["Tokens of alice revoked: 2."]
        assert [row.user for row in Token.objects.active()] == [bob]

    def test_it_revokes_one_by_its_digest(self, alice: User) -> None:
        row, _raw = Token.objects.issue(alice)
        other, _raw = Token.objects.issue(alice)
        assert run("revoke", row.short_id) == [f"Revoked token {row.short_id} of alice."]
        assert "before" in run("revoke", row.short_id)[0]
        assert list(Token.objects.active()) == [other]


PROJECT_SETTINGS = """
SECRET_KEY = "only for this test"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "mcp_django", "mcp_django.tokens", "people"]
AUTH_USER_MODEL = "people.Person"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "people.sqlite3"}}
USE_TZ = True
ROOT_URLCONF = "mcp_django.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
PEOPLE = """
import uuid
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models

class Base(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    born = models.DateField(null=True)

class Person(AbstractBaseUser, Base):
    "No column is_active, a parent with a table of its own, another name for the name."
    email = models.EmailField(unique=True)
    friend = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)
    USERNAME_FIELD = "email"
    objects = BaseUserManager()
"""
USE = """
import datetime, django
django.setup()
from django.test import RequestFactory
from mcp_django.auth import Principal
from mcp_django.tokens import BearerTokens
from people.models import Person

ada = Person.objects.get()
request = RequestFactory().post("/mcp", headers={"Authorization": "Bearer TOKEN"})
principal = BearerTokens().authenticate(request)
assert principal.key == Principal.key_of(ada.pk), principal.key
assert (principal.user, principal.user.born) == (ada, datetime.date(1815, 12, 10))
assert not principal.user.get_deferred_fields()
Person.is_active = property(lambda self: self.email != "ada@example.org")
try:
    BearerTokens().authenticate(request)
except Exception as error:
    print(type(error).__name__)
"""


def test_a_project_with_users_of_its_own_kind_can_use_them(tmp_path: Path) -> None:
    def run_there(*command: str) -> list[str]:
        environment = {"PYTHONPATH": f"{settings.BASE_DIR}:{tmp_path}", "DJANGO_SETTINGS_MODULE": "project_settings"}
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    (tmp_path / "project_settings.py").write_text(PROJECT_SETTINGS)
    (tmp_path / "people").mkdir()
    (tmp_path / "people/__init__.py").touch()
    (tmp_path / "people/models.py").write_text(PEOPLE)
    run_there("-m", "django", "migrate", "--run-syncdb", "--verbosity", "0")
    make = "import django; django.setup(); from people.models import Person\n"
    run_there("-c", f"{make}Person.objects.create(email='ada@example.org', born='1815-12-10')")
    raw_token = run_there("-m", "django", "mcptoken", "create", "ada@example.org")[-1]
    assert run_there("-c", USE.replace("TOKEN", raw_token)) == ["AuthenticationFailed"]


@pytest.mark.django_db
def test_pruning_deletes_tokens_that_are_over_for_longer_than_their_retention() -> None:
    user = User.objects.create_user("pruned")
    now = timezone.now()
    ago = now - timedelta(days=8)
    kept = [
        Token.objects.issue(user)[0],
        Token.objects.issue(user, expires_at=now - timedelta(days=6))[0],
        Token.objects.issue(user, expires_at=now + timedelta(days=6))[0],
    ]
    Token.objects.issue(user, expires_at=ago)
    revoked, _raw = Token.objects.issue(user)
    Token.objects.filter(pk=revoked.pk).update(revoked_at=ago)
    assert prune(dry_run=True).tokens == 2
    assert prune().tokens == 2
    assert set(Token.objects.of_user(user)) == set(kept)


def test_the_commands_own_options_may_stand_at_the_end(alice: User) -> None:
    out = StringIO()
    call_command("mcptoken", "create", "alice", "-v", "0", "--no-color", stdout=out)
    assert out.getvalue().startswith(PREFIX)
