"""Servers, as projects write them: a name, registrations, URLs. Free of the SDK until a server is first used.

Importing the SDK takes half a second and 37 MB, which no management command or task worker should pay for having
``mcp.py`` modules imported.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import cached_property
from django.utils.module_loading import autodiscover_modules

from mcp_django import notices
from mcp_django.access import Permission, scope_set
from mcp_django.auth import Authenticator, Public, default_authenticators, made
from mcp_django.handlers import Enabled, Handler, Kind, Registration, no_bare_decorator, registrations_of

if TYPE_CHECKING:
    from django.urls import URLPattern
    from mcp.server.extension import Extension
    from mcp_types import Annotations as ResourceAnnotations
    from mcp_types import Icon, ToolAnnotations

    from mcp_django.kernel import Kernel
    from mcp_django.views import View

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
HandlerT = TypeVar("HandlerT", bound=type[Handler])

_servers: WeakValueDictionary[str, MCPServer] = WeakValueDictionary()
_discovery = threading.RLock()


class MCPServer:
    """One MCP server of the project.

    Args:
        name: unique in the project, at most 100 characters. It is stored with every session: renaming a server
            ends its sessions.
        server_name: what clients are told as the server's name; ``name`` by default.
        title, version, description, instructions, website_url, icons: what clients are told about the server.
        authenticators: who may come in, each an instance, a class or a dotted path; those of
            ``MCP_DJANGO_AUTHENTICATORS`` by default.
        scopes: which every caller whose credentials are limited by scopes must have.
        cache_ttl: how long clients of 2026-07-28 may go on with the lists of tools, resources and prompts before they
            ask again; by default they ask every time.
        stateless: whether the revision without sessions, 2026-07-28, is served. If not, clients that know both go on
            with a handshake, so that every call has a session.

    Raises:
        ImproperlyConfigured: the name is taken, empty or too long.
    """

    def __init__(
        self,
        name: str,
        *,
        server_name: str | None = None,
        title: str | None = None,
        version: str = "",
        description: str | None = None,
        instructions: str | None = None,
        website_url: str | None = None,
        icons: list[Icon] | None = None,
        authenticators: Sequence[Authenticator | type[Authenticator] | str] | None = None,
        scopes: Collection[str] = (),
        cache_ttl: timedelta = timedelta(0),
        stateless: bool = True,
    ) -> None:
        if not name or len(name) > 100:
            raise ImproperlyConfigured(f"A server's name has 1 to 100 characters, got {name!r}.")
        if name in _servers:
            raise ImproperlyConfigured(f"There is already a server named {name!r}; names are unique in a project.")
        self.name = name
        self.server_name = server_name
        self.title = title
        self.version = version
        self.description = description
        self.instructions = instructions
        self.website_url = website_url
        self.icons = icons
        self.cache_ttl = cache_ttl
        self.stateless = stateless
        self.extensions: list[Extension] = []
        self.scopes = scope_set(f"Server {name!r}", scopes)
        self._own_authenticators = authenticators
        self._registrations: dict[tuple[str, str], Registration] = {}
        self._kernel: Kernel | None = None
        _servers[name] = self

    def __repr__(self) -> str:
        return f"<MCPServer {self.name!r}>"

    @property
    def identity(self) -> dict[str, Any]:
        """What clients are told about the server."""
        return {
            "name": self.server_name or self.name,
            "title": self.title,
            "version": self.version,
            "description": self.description,
            "instructions": self.instructions,
            "website_url": self.website_url,
            "icons": self.icons,
        }

    @property
    def all_scopes(self) -> frozenset[str]:
        """The scopes that it, or anything registered on it, wants of callers."""
        autodiscover()
        return self.scopes.union(*(each.options.get("scopes") or () for each in self._registrations.values()))

    @property
    def authenticators(self) -> tuple[Authenticator, ...]:
        """What recognises callers, in order.

        Raises:
            ImproperlyConfigured: something else was named.
        """
        return self._authenticators if self._own_authenticators is not None else default_authenticators()

    @cached_property
    def _authenticators(self) -> tuple[Authenticator, ...]:
        # Not before the first use: a path may lead to models, and servers are made while apps are loading.
        return tuple(made(authenticator) for authenticator in self._own_authenticators or ())

    @property
    def registrations(self) -> list[Registration]:
        """What was registered, in order."""
        return list(self._registrations.values())

    @property
    def is_public(self) -> bool:
        """Whether callers without credentials are let in: because of ``public``, or, as with ``ALLOWED_HOSTS``, because
        the project names nobody and is under development."""
        if not self.authenticators:
            return bool(settings.DEBUG)
        return any(isinstance(authenticator, Public) for authenticator in self.authenticators)

    # Registration

    def tool(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        input_schema: dict[str, Any] | None = None,
        enabled: Enabled | None = None,
        permission: Permission | None = None,
        scopes: Collection[str] = (),
        atomic: bool | str = False,
    ) -> Callable[[FunctionT], FunctionT]:
        """Register a function as a tool. Its parameters become the input schema, its return type the output's.

        Args:
            name: the function's by default. description: its docstring by default.
            structured_output: None to decide by the return annotation.
            input_schema: a JSON Schema to show in place of the derived one; arguments are still validated by
                the function's signature.
            enabled: a function, sync or async, that says whether the tool is offered at the moment, to whomever;
                always by default. One that is not offered is listed nowhere, and a call of it finds no such tool.
            permission: who is offered the tool: whoever has this Django permission (``"library.view_report"``), or
                those of whom a function, sync or async, says so: it is given the user.
            scopes: what credentials that are limited by scopes must have. A caller who could get them (OAuth) is
                shown the tool, and a call is answered with 403 and what it lacks; to others there is no such tool.
            atomic: run the tool in a transaction, which is rolled back if it fails; True for the default database, or
                its alias. Only for sync functions.
        """
        options = {
            "name": name,
            "title": title,
            "description": description,
            "annotations": annotations,
            "icons": icons,
            "meta": meta,
            "structured_output": structured_output,
            "input_schema": input_schema,
            "enabled": enabled,
            "permission": permission,
            "scopes": scopes,
            "atomic": atomic,
        }
        return self._decorator("tool", name, options)

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        icons: list[Icon] | None = None,
        annotations: ResourceAnnotations | None = None,
        meta: dict[str, Any] | None = None,
        cache_ttl: timedelta | None = None,
        enabled: Enabled | None = None,
        permission: Permission | None = None,
        scopes: Collection[str] = (),
    ) -> Callable[[FunctionT], FunctionT]:
        """Register a function as a resource, or as a template if ``uri`` has ``{variables}`` (RFC 6570).

        Args:
            cache_ttl: how long clients of 2026-07-28 may go on with what they have read; by default they read anew.
            enabled, permission, scopes: see :meth:`tool`.
        """
        options = {
            "uri": uri,
            "name": name,
            "title": title,
            "description": description,
            "mime_type": mime_type,
            "icons": icons,
            "annotations": annotations,
            "meta": meta,
            "cache_ttl": cache_ttl,
            "enabled": enabled,
            "permission": permission,
            "scopes": scopes,
        }
        return self._decorator("resource", uri, options)

    def prompt(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        icons: list[Icon] | None = None,
        enabled: Enabled | None = None,
        permission: Permission | None = None,
        scopes: Collection[str] = (),
    ) -> Callable[[FunctionT], FunctionT]:
        """Register a function as a prompt; it returns a string, a message, or a list of them.

        Args:
            enabled, permission, scopes: see :meth:`tool`.
        """
        options = {
            "name": name,
            "title": title,
            "description": description,
            "icons": icons,
            "enabled": enabled,
            "permission": permission,
            "scopes": scopes,
        }
        return self._decorator("prompt", name, options)

    def completion(self, misused: None = None) -> Callable[[FunctionT], FunctionT]:
        """Register a function ``(ref, argument, context)`` that completes prompt and template arguments.

        It returns strings, a ``Completion``, or None to leave the question to the next registered function.
        """
        return self._decorator("completion", misused, {})

    def register(self, handler: HandlerT) -> HandlerT:
        """Register a :class:`~mcp_django.Handler` class with its marked methods."""
        for registration in registrations_of(handler):
            self._add(registration)
        return handler

    def extend(self, extension: Extension) -> None:
        """Add an extension of the protocol: its tools, resources and methods, and what it says in the capabilities.

        Args:
            extension: as the SDK has them, e.g. ``mcp.server.apps.Apps()``. What it has is taken over at the server's
                first use.

        Raises:
            ImproperlyConfigured: the server has one of this identifier, or has been used.
        """
        identifier = extension.identifier
        if self._kernel is not None:
            raise ImproperlyConfigured(
                f"Extension {identifier!r} was added to server {self.name!r} after its first request. Add it in an "
                "app's mcp.py, which is imported in time."
            )
        if any(other.identifier == identifier for other in self.extensions):
            raise ImproperlyConfigured(f"Server {self.name!r} has the extension {identifier!r} already.")
        self.extensions.append(extension)

    def _decorator(self, kind: Kind, argument: object, options: dict[str, Any]) -> Callable[[FunctionT], FunctionT]:
        no_bare_decorator(kind, argument)

        def decorate(fn: FunctionT) -> FunctionT:
            if not inspect.isroutine(fn):
                raise ImproperlyConfigured(f"@{kind}() takes a function, it was given {fn!r}.")
            self._add(Registration(kind, fn, options))
            return fn

        return decorate

    def _add(self, registration: Registration) -> None:
        if self._kernel is not None:
            raise ImproperlyConfigured(
                f"{registration.place} was registered on server {self.name!r} after its first request. Register in "
                "an app's mcp.py, which is imported in time."
            )
        registration.check()
        place = (registration.kind, registration.key)
        other = self._registrations.get(place)
        if other is not None:
            raise ImproperlyConfigured(
                f"Server {self.name!r} has two {registration.kind}s {registration.key!r}: {other.place} and "
                f"{registration.place}. Give one of them another name."
            )
        if registration.kind == "completion":
            place = (registration.kind, registration.place)
        self._registrations[place] = registration

    # Notices

    def notify_tools_changed(self) -> None:
        """Tell every client that the tool list changed: in sync code after the commit, in async code soon."""
        notices.notify(self.name, "tools")

    def notify_prompts_changed(self) -> None:
        """Tell every client that the prompt list changed. See :meth:`notify_tools_changed`."""
        notices.notify(self.name, "prompts")

    def notify_resources_changed(self) -> None:
        """Tell every client that the resource list changed. See :meth:`notify_tools_changed`."""
        notices.notify(self.name, "resources")

    def notify_resource_updated(self, uri: str) -> None:
        """Tell the clients that subscribed to ``uri`` to read it again. See :meth:`notify_tools_changed`."""
        notices.notify(self.name, "resource", uri)

    def notify_session(self, session: str, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send one session a notification, kept for it until it listens. See :meth:`notify_tools_changed`.

        Args:
            session: its key: ``ctx.session_key``, or the primary key of its row. One that has ended is told nothing.
            method: e.g. ``notifications/elicitation/complete``.

        Raises:
            EventTooLarge: the message is larger than ``MCP_DJANGO_MAX_EVENT_BYTES``.
            TypeError, ValueError: ``params`` is not JSON.
        """
        notices.notify_session(self.name, session, method, params)

    async def anotify_tools_changed(self) -> None:
        """See :meth:`notify_tools_changed`; the notice is written on return."""
        await notices.anotify(self.name, "tools")

    async def anotify_prompts_changed(self) -> None:
        """See :meth:`anotify_tools_changed`."""
        await notices.anotify(self.name, "prompts")

    async def anotify_resources_changed(self) -> None:
        """See :meth:`anotify_tools_changed`."""
        await notices.anotify(self.name, "resources")

    async def anotify_resource_updated(self, uri: str) -> None:
        """See :meth:`notify_resource_updated` and :meth:`anotify_tools_changed`."""
        await notices.anotify(self.name, "resource", uri)

    async def anotify_session(self, session: str, method: str, params: Mapping[str, Any] | None = None) -> None:
        """See :meth:`notify_session` and :meth:`anotify_tools_changed`."""
        await notices.anotify_session(self.name, session, method, params)

    # Use

    @property
    def kernel(self) -> Kernel:
        """The SDK's server with everything registered, built at first use.

        Raises:
            ImproperlyConfigured: a registration is wrong: a signature that makes no schema, a URI whose variables
                are not the function's parameters.
        """
        if self._kernel is None:
            autodiscover()
            with _discovery:
                if self._kernel is None:
                    self._kernel = self._build()
        return self._kernel

    def _build(self) -> Kernel:
        # Imported here for the SDK's weight, see the module's docstring.
        from mcp_django.kernel import Kernel  # noqa: PLC0415

        return Kernel(self, self.registrations)

    @cached_property
    def view(self) -> View:
        """The Django view of this server's endpoint."""
        # The view needs the SDK; see the module's docstring.
        from mcp_django.views import view_of  # noqa: PLC0415

        return view_of(self)

    @property
    def urls(self) -> list[URLPattern]:
        """URL patterns to ``include()``: ``mcp``, with and without trailing slash."""
        # See the module's docstring.
        from mcp_django.views import patterns_of  # noqa: PLC0415

        return patterns_of(self)


def servers() -> list[MCPServer]:
    """All servers of the project, by name, after every app's ``mcp.py`` was imported."""
    autodiscover()
    return [server for _name, server in sorted(_servers.items())]


def autodiscover() -> None:
    """Import the ``mcp`` module of every installed app, once."""
    with _discovery:
        autodiscover_modules("mcp")


class _DefaultServer(MCPServer):
    """The project's default server; unless it is given a name for clients, it goes by the project's."""

    @property
    def identity(self) -> dict[str, Any]:
        project = settings.ROOT_URLCONF.partition(".")[0]
        return {**super().identity, "name": self.server_name or project}


mcp = _DefaultServer("default")
