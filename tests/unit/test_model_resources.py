"""Models whose rows are resources: what a change of a row tells, and when."""

# ruff: noqa: DJ008 - nobody prints the models of this module

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, connections, models, transaction
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils.functional import cached_property as django_cached_property
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate

from mcp_django import resource_updates, visits
from mcp_django.models import Topic

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker

OURS = "tests-of-models"

# Groups are rows that a test project has anyway. The models are proxies: what is marked concerns this module alone.
with isolate_apps("django.contrib.auth"):

    @resource_updates("groups://{name}", server=OURS)
    class Watched(Group):
        class Meta:
            app_label = "auth"
            proxy = True

        @property
        def shout(self) -> str:
            return self.name.upper()

    class Inheriting(Watched):
        class Meta:
            app_label = "auth"
            proxy = True

    @resource_updates("groups://all", server=OURS)
    @resource_updates("groups://{pk}/{name}/{shout}", server=OURS, list_changed=True)
    class Listed(Group):
        class Meta:
            app_label = "auth"
            proxy = True

        @property
        def shout(self) -> str | None:
            """None for some, and for some there is an error."""
            if self.name == "broken":
                raise RuntimeError("no shouting")
            return None if self.name == "quiet" else self.name.upper()


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """As pytest-django's fixture of this name, which empties every table of the project each time."""
    with django_db_blocker.unblock():
        yield
        Topic.objects.all().delete()
        Group.objects.all().delete()


@pytest.fixture(autouse=True)
def committed(transactional_db: None) -> None:
    """Commits are what this is about."""


def raised() -> dict[str, int]:
    """What was told, by kind and URI, with the number of the last notice about it."""
    topics = Topic.objects.filter(server=OURS).exclude(kind=Topic.Kind.CLOCK)
    return {f"{topic.kind} {topic.uri}".strip(): topic.version for topic in topics}


class TestChanges:
    def test_a_row_that_is_made_saved_or_deleted_tells_the_subscribers_of_its_resource(self) -> None:
        row = Watched.objects.create(name="ada")
        assert raised() == {"resource groups://ada": 1}
        row.save()
        assert raised() == {"resource groups://ada": 2}
        row.delete()
        assert raised() == {"resource groups://ada": 3}

    def test_rows_that_a_queryset_deletes_tell_each_for_itself(self) -> None:
        Watched.objects.bulk_create([Watched(name="ada"), Watched(name="bob")])
        assert raised() == {}
        Watched.objects.all().delete()
        assert set(raised()) == {"resource groups://ada", "resource groups://bob"}

    def test_a_row_whose_fields_were_not_loaded_is_deleted_under_its_uri(self) -> None:
        Watched.objects.bulk_create([Watched(name="ada")])
        Watched.objects.only("pk").get().delete()
        assert set(raised()) == {"resource groups://ada"}

    def test_statements_of_querysets_tell_nobody(self) -> None:
        Watched.objects.bulk_create([Watched(name="ada")])
        Watched.objects.update(name="bob")
        assert raised() == {}

    def test_a_row_of_an_unmarked_class_tells_nobody(self) -> None:
        Group.objects.create(name="ada").delete()
        assert raised() == {}

    def test_classes_that_inherit_are_marked_with_their_parent(self) -> None:
        Inheriting.objects.create(name="ada")
        assert raised() == {"resource groups://ada": 1}

    def test_the_list_changes_with_a_row_that_is_made_or_deleted_and_with_no_other(self) -> None:
        row = Listed.objects.create(name="ada")
        key = row.pk
        one, constant = f"resource groups://{key}/ada/ADA", "resource groups://all"
        assert set(raised()) == {one, constant, "resources"}
        before = raised()
        row.save()
        after = raised()
        assert after[one] > before[one]
        assert after[constant] > before[constant]
        assert after["resources"] == before["resources"]
        row.delete()
        assert raised()["resources"] > before["resources"]

    def test_a_row_without_a_value_for_its_uri_has_no_resource(self) -> None:
        Listed.objects.create(name="quiet").delete()
        assert set(raised()) == {"resource groups://all"}

    def test_a_row_whose_uri_cannot_be_made_is_saved_all_the_same_and_that_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        Listed.objects.create(name="broken")
        assert Group.objects.filter(name="broken").exists()
        assert set(raised()) == {"resource groups://all"}
        assert "no shouting" in caplog.text
        assert "groups://{pk}/{name}/{shout}" in caplog.text

    @pytest.mark.anyio
    async def test_rows_that_async_code_saves_tell_as_well(self) -> None:
        row = await Watched.objects.acreate(name="ada")
        await row.adelete()
        assert await sync_to_async(raised)() == {"resource groups://ada": 2}
        await sync_to_async(connections.close_all)()

    def test_any_thread_may_save(self) -> None:
        def save() -> None:
            Watched.objects.create(name="ada")
            connection.close()

        thread = threading.Thread(target=save)
        thread.start()
        thread.join(timeout=30)
        assert raised() == {"resource groups://ada": 1}


class TestTransactions:
    def test_nothing_is_told_before_the_commit(self) -> None:
        with transaction.atomic():
            Watched.objects.create(name="ada")
            assert raised() == {}
        assert set(raised()) == {"resource groups://ada"}

    def test_what_is_rolled_back_is_not_told(self) -> None:
        with transaction.atomic():
            Watched.objects.create(name="ada")
            transaction.set_rollback(True)
        assert raised() == {}

    def test_a_savepoint_that_is_rolled_back_takes_only_its_own_along(self) -> None:
        with transaction.atomic():
            Watched.objects.create(name="ada")
            with transaction.atomic():
                Watched.objects.create(name="bob")
                transaction.set_rollback(True)
        assert set(raised()) == {"resource groups://ada"}

    def test_all_rows_of_a_transaction_are_told_in_one_more(self) -> None:
        with CaptureQueriesContext(connection) as queries, transaction.atomic():
            for number in range(50):
                Watched.objects.create(name=f"ada{number}")
        assert [query["sql"] for query in queries].count("COMMIT") == 2
        assert set(raised()) == {f"resource groups://ada{number}" for number in range(50)}

    def test_one_notice_that_the_database_refuses_takes_no_other_along(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        write = visits.write

        def refuse(items: list[Any]) -> list[Any]:
            if any(item.uri == "groups://bob" for item in items):
                raise DatabaseError("not this one")
            return write(items)

        monkeypatch.setattr(visits, "write", refuse)
        with transaction.atomic():
            for name in ("ada", "bob", "eve"):
                Watched.objects.create(name=name)
        assert set(raised()) == {"resource groups://ada", "resource groups://eve"}
        assert "could not be written" in caplog.text

    def test_a_deletion_that_is_rolled_back_is_not_told(self) -> None:
        Watched.objects.bulk_create([Watched(name="ada")])
        with transaction.atomic():
            Watched.objects.get().delete()
            transaction.set_rollback(True)
        assert raised() == {}

    def test_where_there_can_be_no_hook_after_the_commit_the_row_is_saved_and_that_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        transaction.set_autocommit(False)
        try:
            Watched.objects.create(name="ada")
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert Group.objects.filter(name="ada").exists()
        assert raised() == {}
        assert "nobody could be told" in caplog.text

    def test_a_row_of_another_database_is_told_after_that_ones_commit(self, other_database: str) -> None:
        with transaction.atomic(using=other_database):
            Watched.objects.using(other_database).create(name="ada")
            assert raised() == {}
        assert set(raised()) == {"resource groups://ada"}


@pytest.fixture
def other_database(tmp_path: Path) -> Iterator[str]:
    """A second database with a table of groups."""
    defaults = {**connections.settings["default"], "NAME": tmp_path / "other.sqlite3", "OPTIONS": {}}
    connections.settings["other"] = {**defaults, "ENGINE": "django.db.backends.sqlite3"}
    other = connections["other"]
    # By itself, a test may not connect to what was no database when it began.
    other.connect()
    with other.schema_editor() as editor:
        editor.create_model(Group)
    yield "other"
    other.close()
    del connections["other"]
    del connections.settings["other"]


class TestTables:
    """Inheritance of tables, which proxies do not have."""

    @pytest.fixture(autouse=True)
    def isolated(self) -> Iterator[None]:
        with isolate_apps("django.contrib.auth"):
            yield

    def test_a_row_of_a_child_table_is_one_of_the_parents_too(self) -> None:
        @resource_updates("people://{name}", server=OURS)
        class Person(models.Model):
            name = models.CharField(max_length=50)

            class Meta:
                app_label = "auth"

        class Author(Person):
            class Meta:
                app_label = "auth"

        with connection.schema_editor() as editor:
            editor.create_model(Person)
            editor.create_model(Author)
        try:
            author = Author(name="ada")
            author.save()
            before = raised()
            assert set(before) == {"resource people://ada"}
            author.delete()
            assert raised()["resource people://ada"] > before["resource people://ada"]
        finally:
            with connection.schema_editor() as editor:
                editor.delete_model(Author)
                editor.delete_model(Person)

    def test_an_abstract_class_marks_those_that_inherit_from_it(self) -> None:
        @resource_updates("things://{slug}", server=OURS)
        class Thing(models.Model):
            class Meta:
                abstract = True

        class Tool(Thing):
            slug = models.SlugField()

            class Meta:
                app_label = "auth"

        tool = Tool(slug="saw")
        with connection.schema_editor() as editor:
            editor.create_model(Tool)
        try:
            tool.save()
            assert set(raised()) == {"resource things://saw"}
        finally:
            with connection.schema_editor() as editor:
                editor.delete_model(Tool)

        with pytest.raises(ImproperlyConfigured, match="Toy has no field or property 'slug'"):

            class Toy(Thing):
                class Meta:
                    app_label = "auth"

    def test_fields_columns_and_properties_can_stand_in_a_uri(self) -> None:
        class Everything(models.Model):
            id = models.UUIDField(primary_key=True)
            group = models.ForeignKey(Group, on_delete=models.CASCADE)
            name = models.CharField(max_length=50)

            class Meta:
                app_label = "auth"

            @property
            def one(self) -> int:
                return 1

            @cached_property
            def two(self) -> int:
                return 2

            @django_cached_property
            def three(self) -> int:
                return 3

        for name in ("pk", "id", "group_id", "name", "one", "two", "three"):
            assert resource_updates(f"x://{{{name}}}", server=OURS)(Everything) is Everything

    @pytest.mark.parametrize("name", ["nmae", "group", "groups", "method", "objects", "_meta", "save", "everything"])
    def test_nothing_else_can_and_that_is_told_at_once(self, name: str) -> None:
        class Everything(models.Model):
            group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="everything")
            groups = models.ManyToManyField(Group, related_name="+")

            class Meta:
                app_label = "auth"

            def method(self) -> str:
                return ""

        with pytest.raises(ImproperlyConfigured) as caught:
            resource_updates(f"x://{{{name}}}", server=OURS)(Everything)
        assert f"Everything has no field or property {name!r}" in str(caught.value)
        assert f"x://{{{name}}}" in str(caught.value)


WRONG = [
    "",
    "no-scheme/{isbn}",
    "/books/{isbn}",
    "books://{+isbn}",
    "books://{?isbn}",
    "books://{/isbn}",
    "books://{&isbn}",
    "books://{#isbn}",
    "books://{.isbn}",
    "books://{;isbn}",
    "books://{isbn*}",
    "books://{isbn:3}",
    "books://{isbn,title}",
    "books://{author.name}",
    "books://{}",
    "books://{1}",
    "books://{ isbn }",
    "books://{{isbn}}",
    "books://{isbn",
    "books://isbn}",
    "books://{isbn}\n",
    "books://a book/{isbn}",
]


class TestTemplates:
    @pytest.mark.parametrize("uri", WRONG)
    def test_what_is_no_simple_template_is_told_at_once(self, uri: str) -> None:
        with pytest.raises(ImproperlyConfigured) as caught:
            resource_updates(uri)
        assert repr(uri) in str(caught.value)

    def test_a_decorator_without_its_uri_is_told(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"Write @resource_updates\(uri\)"):
            resource_updates(Group)  # type: ignore[arg-type]

    @pytest.mark.parametrize("wrong", [object, len, "Book", None, Group()])
    def test_what_is_no_model_is_told(self, wrong: Any) -> None:
        with pytest.raises(ImproperlyConfigured) as caught:
            resource_updates("books://all")(wrong)
        assert repr(wrong) in str(caught.value)


class TestExpansion:
    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
    def test_a_uri_is_what_the_sdk_makes_of_the_template_and_leads_back_to_the_value(self, name: str) -> None:
        (declaration,) = declarations_of(Watched)
        uri = declaration.uri_of(Watched(name=name))
        template = UriTemplate.parse("groups://{name}")
        assert uri == template.expand({"name": name})
        assert template.match(uri) == {"name": name}

    def test_every_octet_that_is_not_unreserved_is_encoded(self) -> None:
        (declaration,) = declarations_of(Watched)
        assert declaration.uri_of(Watched(name="a/b c?d=é~-._%{x}")) == "groups://a%2Fb%20c%3Fd%3D%C3%A9~-._%25%7Bx%7D"


def declarations_of(model: type[models.Model]) -> list[Any]:
    """The declarations that listen to a model."""
    receivers, _async_receivers = models.signals.post_save._live_receivers(model)
    return [receiver.__self__ for receiver in receivers if hasattr(receiver, "__self__")]


MODELS = """
import sys
from django.apps import apps
from django.contrib.auth.models import AbstractUser
from mcp_django import resource_updates, visits

assert not apps.models_ready

@resource_updates("people://{username}")
class Person(AbstractUser):
    pass
"""

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["people", "django.contrib.auth", "django.contrib.contenttypes", "mcp_django"]
AUTH_USER_MODEL = "people.Person"
"""


def test_a_project_whose_user_model_is_marked_starts_and_does_not_load_the_sdk(tmp_path: Path) -> None:
    """Its app comes first, so everything that the decorator needs is imported before any other app's models."""
    app = tmp_path / "people"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(MODELS)
    (tmp_path / "project_settings.py").write_text(SETTINGS)
    program = (
        f"import os, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(settings.BASE_DIR)!r}]\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'project_settings'\n"
        "import django; django.setup()\n"
        "from django.contrib.auth import get_user_model\n"
        "assert get_user_model().__name__ == 'Person'\n"
        "assert not {'mcp', 'mcp_types'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
