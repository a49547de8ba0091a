"""Settings: read once, checked when read, read again after `override_settings`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from mcp_django import conf
from mcp_django.conf import MCPSettings, mcp_settings


def test_every_default_is_of_a_type_that_a_project_may_give() -> None:
    for name, setting in conf.SETTINGS.items():
        assert conf.wrong(name, setting.default) is None, name


def test_every_setting_is_typed_for_its_readers() -> None:
    assert set(MCPSettings.__annotations__) == set(conf.SETTINGS)


def test_a_setting_that_the_project_leaves_out_has_its_default() -> None:
    assert mcp_settings.PAGE_SIZE == 100
    assert timedelta(days=14) == mcp_settings.SESSION_TTL


def test_an_override_is_read_and_so_is_its_end() -> None:
    before = mcp_settings.PAGE_SIZE
    with override_settings(MCP_DJANGO_PAGE_SIZE=7):
        assert mcp_settings.PAGE_SIZE == 7
        with override_settings(MCP_DJANGO_PAGE_SIZE=8):
            assert mcp_settings.PAGE_SIZE == 8
        assert mcp_settings.PAGE_SIZE == 7
    assert before == mcp_settings.PAGE_SIZE


def test_an_override_of_another_app_changes_nothing() -> None:
    with override_settings(LANGUAGE_CODE="de"):
        assert mcp_settings.PAGE_SIZE == 100


def test_a_value_is_read_from_django_once() -> None:
    with override_settings(MCP_DJANGO_PAGE_SIZE=7):
        assert mcp_settings.PAGE_SIZE == 7
        assert vars(mcp_settings)["PAGE_SIZE"] == 7


def test_an_unknown_name_is_an_attribute_error_that_names_the_setting() -> None:
    with pytest.raises(AttributeError, match="MCP_DJANGO_SESION_TTL"):
        mcp_settings.SESION_TTL  # noqa: B018


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SESSION_TTL", 14, "timedelta"),
        ("SESSION_TTL", timedelta(0), "longer than zero"),
        ("TOUCH_RESOLUTION", timedelta(seconds=-1), "longer than zero"),
        ("PAGE_SIZE", "100", "int"),
        ("PAGE_SIZE", 1.5, "int"),
        ("PAGE_SIZE", True, "int"),
        ("PAGE_SIZE", 0, "greater than zero"),
        ("MAX_BODY_BYTES", -1, "greater than zero"),
        ("STORE_TIMEOUT", None, "float or int"),
        ("STORE_TIMEOUT", 0.0, "greater than zero"),
        ("SESSION_STORE", dict, "str"),
        ("ALLOWED_ORIGINS", "https://app.example", "list or tuple"),
        ("AUTHENTICATORS", {"mcp_django.auth.DjangoLogin"}, "list or tuple"),
    ],
)
def test_a_wrong_value_says_which_setting_what_was_expected_and_what_came(name: str, value: Any, expected: str) -> None:
    with (
        override_settings(**{f"MCP_DJANGO_{name}": value}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        getattr(mcp_settings, name)
    text = str(caught.value)
    assert f"MCP_DJANGO_{name}" in text
    assert expected in text
    assert repr(value) in text


def test_a_wrong_value_stays_wrong_until_it_is_mended() -> None:
    with override_settings(MCP_DJANGO_PAGE_SIZE=0):
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured):
                mcp_settings.PAGE_SIZE  # noqa: B018
    assert mcp_settings.PAGE_SIZE == 100


@override_settings(MCP_DJANGO_STORE_TIMEOUT=2)
def test_whole_seconds_do_for_a_time_in_seconds() -> None:
    assert mcp_settings.STORE_TIMEOUT == 2


@override_settings(MCP_DJANGO_NO_SUCH=1, MCP_DJANGO_PAGE_SIZE=1, OTHER_DJANGO_SETTING=1)
def test_the_projects_own_names_are_found_known_or_not() -> None:
    assert {"NO_SUCH", "PAGE_SIZE"} <= set(conf.named_in_project())
    assert not any("OTHER" in name for name in conf.named_in_project())


def test_all_settings_can_be_verified_at_once() -> None:
    conf.verify()
    with override_settings(MCP_DJANGO_PAGE_SIZE=0), pytest.raises(ImproperlyConfigured, match="MCP_DJANGO_PAGE_SIZE"):
        conf.verify()
    with override_settings(MCP_DJANGO_NO_SUCH=1), pytest.raises(ImproperlyConfigured, match="MCP_DJANGO_NO_SUCH"):
        conf.verify()
