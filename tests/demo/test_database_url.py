"""DATABASE_URL as Django's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from demo_project.database import from_url

BASE = Path("/srv/demo")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///demo.sqlite3", BASE / "demo.sqlite3"),
        ("sqlite:///data/my%20demo.sqlite3", BASE / "data/my demo.sqlite3"),
        ("sqlite:////tmp/demo.sqlite3", Path("/tmp/demo.sqlite3")),
    ],
)
def test_a_sqlite_path_is_relative_with_three_slashes_and_absolute_with_four(url: str, path: Path) -> None:
    database = from_url(url, BASE)
    assert database["NAME"] == path
    assert database["TEST"]["NAME"] == path.with_name(f"test_{path.name}")


def test_sqlite_takes_its_write_lock_at_begin_and_waits_for_it() -> None:
    options = from_url("sqlite:///demo.sqlite3?timeout=5", BASE)["OPTIONS"]
    assert options["transaction_mode"] == "IMMEDIATE"
    assert options["timeout"] == 5
    assert "journal_mode=WAL" in options["init_command"]


@pytest.mark.parametrize(
    ("scheme", "engine"),
    [
        ("postgres", "postgresql"),
        ("postgresql", "postgresql"),
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
    ],
)
def test_every_part_of_a_server_url_arrives_decoded(scheme: str, engine: str) -> None:
    url = f"{scheme}://some%40one:p%2Fw%3A%23@db.example:1234/na%20me?connect_timeout=5&sslmode=require"
    assert from_url(url, BASE) == {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": "na me",
        "USER": "some@one",
        "PASSWORD": "p/w:#",
        "HOST": "db.example",
        "PORT": "1234",
        "OPTIONS": {"connect_timeout": 5, "sslmode": "require"},
    }


def test_what_a_url_leaves_out_is_left_to_the_driver() -> None:
    database = from_url("postgres:///name", BASE)
    assert (database["USER"], database["PASSWORD"], database["HOST"], database["PORT"]) == ("", "", "", "")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("oracle://user:secret@host/name", "expected sqlite, postgres, mysql or mariadb"),
        ("sqlite://:memory:", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite://demo.sqlite3", "must name a file"),
        ("postgres://user:secret@host", "names no database"),
        ("postgres://user:secret@host:port/name", "must be a number"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_advice_and_without_its_password(url: str, advice: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=advice) as refusal:
        from_url(url, BASE)
    assert "secret" not in str(refusal.value)
