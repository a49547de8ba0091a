"""Handler classes, and what a registration is.

A function registers on a server by a decorator; a :class:`Handler` class groups methods that share the instance
which each live session has of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from django.core.exceptions import ImproperlyConfigured

from mcp_django.access import access_of, check_atomic
from mcp_django.exceptions import NoSession

if TYPE_CHECKING:
    from mcp_django.live import LiveSession

Kind = Literal["tool", "resource", "prompt", "completion"]
RestoreReason = Literal["restart", "other_process", "evicted"]
Enabled = Callable[[], bool | Awaitable[bool]]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

MARK = "_mcp_django_registrations"


@dataclass(frozen=True)
class RestoreMarker:
    """Says that this process restored the session from the store, and how it came to that.

    Args:
        session_id: the ``Mcp-Session-Id``; a bearer secret, not to be logged.
        reason: ``restart`` if the process that had the session is gone, ``other_process`` if it still runs,
            ``evicted`` if it was this very process, whose memory had to make room.
        previous_process: the id of the process that had it before, if known.
        idle_for: since the session was last used, within ``MCP_DJANGO_TOUCH_RESOLUTION``.
        restore_count: how often the session was restored by any process, this time included.
        process_restore_count: how often by this process.
        initialized_at: when the client sent ``notifications/initialized``; None if it never did.
    """

    session_id: str = field(repr=False)
    reason: RestoreReason
    previous_process: str | None
    idle_for: timedelta
    restore_count: int
    process_restore_count: int
    initialized_at: datetime | None


@dataclass(frozen=True)
class Registration:
    """One function or method on a server, with the arguments of its decorator."""

    kind: Kind
    fn: Callable[..., Any]
    options: dict[str, Any]
    handler: type[Handler] | None = None

    @property
    def key(self) -> str:
        """What must be unique among registrations of its kind: the name, or a resource's URI."""
        return str(self.options.get("uri") or self.options.get("name") or self.fn.__name__)

    @property
    def place(self) -> str:
        """Where it is written, for error messages."""
        return f"{self.fn.__module__}.{self.fn.__qualname__}"

    def check(self) -> None:
        """See that what decides whether it is offered can be asked, and that it can be atomic if it is to be.

        Raises:
            ImproperlyConfigured: ``enabled``, ``permission``, ``scopes`` or ``atomic`` is of no use.
        """
        access_of(self.place, self.options.get("permission"), self.options.get("scopes") or ())
        check_atomic(self.place, self.fn, self.options.get("atomic", False))
        enabled = self.options.get("enabled")
        if enabled is None:
            return
        try:
            inspect.signature(enabled).bind()
        except (TypeError, ValueError):
            raise ImproperlyConfigured(
                f"{self.place}: enabled= takes a function without arguments that returns whether the {self.kind} is "
                f"offered at the moment, it was given {enabled!r}."
            ) from None


class Handler:
    """Base of handler classes: tools, resources and prompts as methods, sharing one instance per live session.

    Made without arguments when a session opens or is restored, in every process that serves it; so what must
    survive belongs into ``self.session.state``, not into attributes. Hooks may be sync or async, and may use the
    ORM; a hook that raises fails the request that needed the session, and the next request tries again. Hooks
    cannot ask the client questions.

    For a client without sessions (2026-07-28) each request has a fresh instance, and no hook runs.
    """

    _session: LiveSession | None = None

    @property
    def session(self) -> LiveSession:
        """The live session that this instance serves; there before any hook runs.

        Raises:
            NoSession: it serves one request of a client without sessions.
        """
        if self._session is None:
            raise NoSession
        return self._session

    def on_initialize(self, params: Any, marker: RestoreMarker | None) -> Any:
        """The handshake: the client's ``initialize`` params arrived, or are replayed (``marker`` says so)."""

    def on_initialized(self, marker: RestoreMarker | None) -> Any:
        """``notifications/initialized`` arrived, or is replayed. Not replayed if it had never come."""

    def on_restore(self, marker: RestoreMarker) -> Any:
        """The session was restored in this process; runs after the handshake's replay, before any call."""


def _mark(kind: Kind, options: dict[str, Any]) -> Callable[[FunctionT], FunctionT]:
    def decorate(fn: FunctionT) -> FunctionT:
        if not inspect.isfunction(fn):
            raise ImproperlyConfigured(f"@{kind}() marks methods of a Handler class, it was given {fn!r}.")
        fn.__dict__.setdefault(MARK, []).append((kind, options))
        return fn

    return decorate


def tool(name: str | None = None, **options: Any) -> Callable[[FunctionT], FunctionT]:
    """Mark a method of a :class:`Handler` as a tool. Takes the arguments of :meth:`MCPServer.tool`."""
    no_bare_decorator("tool", name)
    return _mark("tool", {"name": name, **options})


def resource(uri: str, **options: Any) -> Callable[[FunctionT], FunctionT]:
    """Mark a method as a resource, or as a template if ``uri`` has ``{variables}``. See :meth:`MCPServer.resource`."""
    no_bare_decorator("resource", uri)
    return _mark("resource", {"uri": uri, **options})


def prompt(name: str | None = None, **options: Any) -> Callable[[FunctionT], FunctionT]:
    """Mark a method as a prompt. Takes the arguments of :meth:`MCPServer.prompt`."""
    no_bare_decorator("prompt", name)
    return _mark("prompt", {"name": name, **options})


def no_bare_decorator(kind: str, argument: object) -> None:
    """Notice a decorator that was written without its parentheses.

    Raises:
        ImproperlyConfigured: its argument is the function that it stands on.
    """
    if callable(argument):
        raise ImproperlyConfigured(f"Write @{kind}(...) with parentheses; it was used as @{kind} on {argument!r}.")


def registrations_of(handler: type[Handler]) -> Iterator[Registration]:
    """The marked methods of a handler class, inherited ones included, in the order they are written.

    Raises:
        ImproperlyConfigured: it is no Handler class, or none of its methods is marked.
    """
    if not (inspect.isclass(handler) and issubclass(handler, Handler)):  # type: ignore[redundant-expr]
        raise ImproperlyConfigured(f"register() takes a subclass of mcp_django.Handler, it was given {handler!r}.")
    found: dict[str, Any] = {}
    for klass in reversed(handler.__mro__):
        found.update({name: value for name, value in vars(klass).items() if name in found or hasattr(value, MARK)})
    marked = [fn for fn in found.values() if hasattr(fn, MARK)]
    for name in dir(handler):
        value = inspect.getattr_static(handler, name)
        inner = getattr(value, "__func__", None) or getattr(value, "fget", None)
        if hasattr(inner, MARK):
            raise ImproperlyConfigured(
                f"{handler.__qualname__}.{name} is marked below {type(value).__name__}; only plain methods can be "
                "tools, resources or prompts."
            )
    if not marked:
        raise ImproperlyConfigured(
            f"{handler.__qualname__} has no method marked with @tool(), @resource() or @prompt()."
        )
    try:
        inspect.signature(handler).bind()
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{handler.__module__}.{handler.__qualname__} must be callable without arguments, one instance is made "
            f"per live session: {error}."
        ) from None
    for fn in marked:
        for kind, options in getattr(fn, MARK):
            yield Registration(kind, fn, options, handler)
