"""Settings, read lazily from Django's settings under the prefix ``MCP_DJANGO_``.

``mcp_settings.SESSION_TTL`` is ``settings.MCP_DJANGO_SESSION_TTL`` or its default. A value is read and
checked once, and again after ``setting_changed`` (so ``override_settings`` works in tests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from ipaddress import ip_network
from types import NoneType
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

PREFIX = "MCP_DJANGO_"


class Setting(NamedTuple):
    """One setting: its default, the types a project may give it, and what else its value must be."""

    default: Any
    types: tuple[type, ...]
    problem: Callable[[Any], str | None] = lambda value: None


def no_network(proxies: Any) -> str | None:
    """What is wrong with a list of addresses, networks and ``unix``; None if nothing is."""
    for proxy in proxies:
        try:
            if proxy != "unix":
                ip_network(proxy)
        except ValueError as error:
            return f"holds {proxy!r}, which is no address, no network such as 10.0.0.0/8, and not 'unix': {error}"
    return None


SETTINGS: dict[str, Setting] = {
    "SESSION_STORE": Setting("mcp_django.store.ORMStore", (str,)),
    "SESSION_TTL": Setting(timedelta(days=14), (timedelta,)),
    "HANDLE_TTL": Setting(timedelta(days=14), (timedelta,)),
    "TOUCH_RESOLUTION": Setting(timedelta(seconds=60), (timedelta,)),
    "TOMBSTONE_RETENTION": Setting(timedelta(days=7), (timedelta,)),
    "STREAM_RETENTION": Setting(timedelta(hours=1), (timedelta,)),
    "STORE_TIMEOUT": Setting(5.0, (float, int)),
    "LIVE_SESSIONS": Setting(10_000, (int,)),
    "LIVE_IDLE": Setting(timedelta(minutes=15), (timedelta,)),
    "HALF_OPEN_TTL": Setting(timedelta(minutes=10), (timedelta,)),
    "MAX_PRINCIPAL_SESSIONS": Setting(1000, (int,)),
    "MAX_ADDRESS_SESSIONS": Setting(1000, (int,)),
    "MAX_INITIALIZES_PER_MINUTE": Setting(600, (int, NoneType)),
    "MAX_CALLS_PER_MINUTE": Setting(6000, (int, NoneType)),
    "MAX_COMPLETIONS_PER_MINUTE": Setting(6000, (int, NoneType)),
    "MAX_SESSION_CALLS": Setting(64, (int,)),
    "TRUSTED_PROXIES": Setting([], (list, tuple), no_network),
    "MAX_BODY_BYTES": Setting(4 * 1024 * 1024, (int,)),
    "MAX_STATE_BYTES": Setting(64 * 1024, (int,)),
    "MAX_BATCH": Setting(50, (int,)),
    "MAX_CONCURRENT_CALLS": Setting(100, (int,)),
    "CALL_QUEUE_TIMEOUT": Setting(30.0, (float, int)),
    "CALL_THREADS": Setting(64, (int,)),
    "PAGE_SIZE": Setting(100, (int,)),
    "STREAM_AFTER": Setting(1.0, (float, int)),
    "STREAM_RETRY": Setting(3.0, (float, int)),
    "KEEP_ALIVE": Setting(15.0, (float, int)),
    "POLL_INTERVAL": Setting(0.5, (float, int)),
    "STREAM_PATIENCE": Setting(60.0, (float, int)),
    "QUESTION_TIMEOUT": Setting(timedelta(minutes=10), (timedelta,)),
    "REQUEST_STATE_TTL": Setting(timedelta(hours=1), (timedelta,)),
    "SHUTDOWN_GRACE": Setting(1.0, (float, int)),
    "MAX_STREAMS": Setting(1000, (int,)),
    "MAX_SESSION_STREAMS": Setting(8, (int,)),
    "MAX_STREAM_EVENTS": Setting(100_000, (int,)),
    "MAX_EVENT_BYTES": Setting(8 * 1024 * 1024, (int,)),
    "MAX_SUBSCRIPTIONS": Setting(100, (int,)),
    "ALLOWED_ORIGINS": Setting([], (list, tuple)),
    "AUTHENTICATORS": Setting([], (list, tuple)),
}


class MCPSettings:
    """The settings as attributes; an unknown name is an ``AttributeError``."""

    SESSION_STORE: str
    SESSION_TTL: timedelta
    HANDLE_TTL: timedelta
    TOUCH_RESOLUTION: timedelta
    TOMBSTONE_RETENTION: timedelta
    STREAM_RETENTION: timedelta
    STORE_TIMEOUT: float
    LIVE_SESSIONS: int
    LIVE_IDLE: timedelta
    HALF_OPEN_TTL: timedelta
    MAX_PRINCIPAL_SESSIONS: int
    MAX_ADDRESS_SESSIONS: int
    MAX_INITIALIZES_PER_MINUTE: int | None
    MAX_CALLS_PER_MINUTE: int | None
    MAX_COMPLETIONS_PER_MINUTE: int | None
    MAX_SESSION_CALLS: int
    TRUSTED_PROXIES: list[str]
    MAX_BODY_BYTES: int
    MAX_STATE_BYTES: int
    MAX_BATCH: int
    MAX_CONCURRENT_CALLS: int
    CALL_QUEUE_TIMEOUT: float
    CALL_THREADS: int
    PAGE_SIZE: int
    STREAM_AFTER: float
    STREAM_RETRY: float
    KEEP_ALIVE: float
    POLL_INTERVAL: float
    STREAM_PATIENCE: float
    QUESTION_TIMEOUT: timedelta
    REQUEST_STATE_TTL: timedelta
    SHUTDOWN_GRACE: float
    MAX_STREAMS: int
    MAX_SESSION_STREAMS: int
    MAX_STREAM_EVENTS: int
    MAX_EVENT_BYTES: int
    MAX_SUBSCRIPTIONS: int
    ALLOWED_ORIGINS: list[str]
    AUTHENTICATORS: list[str]

    def __getattr__(self, name: str) -> Any:
        try:
            setting = SETTINGS[name]
        except KeyError:
            raise AttributeError(f"mcp_django has no setting {PREFIX}{name}.") from None
        value = getattr(settings, PREFIX + name, setting.default)
        if problem := wrong(name, value):
            raise ImproperlyConfigured(problem)
        # Kept as an instance attribute: the next read does not come here again.
        setattr(self, name, value)
        return value


def wrong(name: str, value: Any) -> str | None:
    """What is wrong with ``value`` for the setting ``name`` (without prefix), or None."""
    types = SETTINGS[name].types
    if isinstance(value, types) and not isinstance(value, bool) and (problem := SETTINGS[name].problem(value)):
        return f"{PREFIX}{name} {problem}"
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in types)
        return f"{PREFIX}{name} must be a {expected}, got {value!r}."
    if isinstance(value, timedelta) and value <= timedelta(0):
        return f"{PREFIX}{name} must be longer than zero, got {value!r}."
    if isinstance(value, (int, float)) and value <= 0:
        return f"{PREFIX}{name} must be greater than zero, got {value!r}."
    return None


def verify() -> None:
    """Read every setting once.

    Raises:
        ImproperlyConfigured: one has a wrong value, or the project sets one that does not exist.
    """
    for name in SETTINGS:
        getattr(mcp_settings, name)
    for name in named_in_project():
        if name not in SETTINGS:
            raise ImproperlyConfigured(f"There is no setting {PREFIX}{name}; see docs/settings.md for those there are.")


def named_in_project() -> Iterator[str]:
    """The names (without prefix) of all ``MCP_DJANGO_*`` settings that the project sets, known or not."""
    for name in dir(settings):
        if name.startswith(PREFIX):
            yield name.removeprefix(PREFIX)


mcp_settings = MCPSettings()


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith(PREFIX):
        vars(mcp_settings).pop(setting.removeprefix(PREFIX), None)


setting_changed.connect(_forget, dispatch_uid="mcp_django.conf")
