"""Registered functions as the SDK is to call them: async, with what the SDK does not know filled in."""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import typing
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, transaction
from mcp.server.mcpserver import Resolve
from mcp.server.mcpserver.context import Context as SDKContext
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.mcpserver.resources import Resource, ResourceManager, ResourceTemplate
from mcp.server.mcpserver.resources.templates import ResourceSecurityError
from mcp.server.mcpserver.utilities.context_injection import find_context_parameter
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import AnyUrl

from mcp_django import handles, jsonrpc, threads
from mcp_django.auth import Principal
from mcp_django.context import Context
from mcp_django.exceptions import ClientCannot, HandlerError, SessionNotFound, StoreUnavailable
from mcp_django.handlers import Kind, Registration
from mcp_django.offers import Offers
from mcp_django.running import current_call
from mcp_django.store import handle_store

logger = logging.getLogger("mcp_django.calls")

# What a model may read of, and do something about; see explained().
EXPLAINED: Final = (HandlerError, SessionNotFound, StoreUnavailable)

current_context: contextvars.ContextVar[Context] = contextvars.ContextVar("mcp_django_context")
"""The context of the running handler, for those that the SDK gives none: static resources and completions."""


def check_parameters(registration: Registration) -> None:
    """Find what the SDK would notice at the first call only.

    Raises:
        TypeError: the function cannot be called as it will be.
    """
    signature = inspect.signature(registration.fn)
    parameters = list(signature.parameters.values())
    if registration.handler is not None:
        if not parameters or parameters[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError("a method needs self as its first parameter")
        parameters = parameters[1:]
    if registration.kind == "completion":
        name = find_context_parameter(registration.fn)
        others = [parameter for parameter in parameters if parameter.name != name]
        try:
            signature.replace(parameters=others).bind("ref", "argument", "context")
        except TypeError:
            raise TypeError(
                "a completion takes (ref, argument, context), and a Context parameter if it likes"
            ) from None
    elif any(parameter.kind is inspect.Parameter.POSITIONAL_ONLY for parameter in parameters):
        raise TypeError("arguments are passed by name, and it has positional-only parameters")


def check_kinds(registration: Registration, kinds: dict[str, type[handles.Handle]]) -> None:
    """Note what kinds of handles a function takes and returns.

    Raises:
        TypeError: its server has another class of one of these kinds.
    """
    for hint in typing.get_type_hints(registration.fn).values():
        for found in handles.classes_in(hint):
            other = kinds.setdefault(found.kind, found)
            if other is not found:
                raise TypeError(
                    f"{handles.place_of(found)} and {handles.place_of(other)} are both handles of the kind "
                    f"{found.kind!r}, one would be taken for the other; give one of them another name or `kind`"
                )


def prepared(registration: Registration) -> Callable[..., Awaitable[Any]]:
    """The registered function as the SDK is to call it: async, off the event loop if it was sync, bound to the
    session's handler instance if it is a method, with the handles among its arguments looked up, and with errors that
    the model may read."""
    atomic = registration.options.get("atomic", False)
    run = threads.asynchronous(in_transaction(registration.fn, atomic) if atomic else registration.fn)
    handler_class, kind = registration.handler, registration.kind
    takes_handles, gives_handles = handles_of(registration.fn)

    @functools.wraps(registration.fn)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        if handler_class is not None:
            args = (current_call.get().handler(handler_class), *args)
        try:
            if takes_handles:
                await handles.check_arguments([*args, *kwargs.values()])
            result = await run(*args, **kwargs)
        except EXPLAINED as error:
            # The SDK takes another exception for a crash and withholds its text.
            raise failure(error, kind) from error
        return handles.returned(result) if gives_handles else result

    describe(handle, registration.fn, without_first=handler_class is not None)
    return handle


def in_transaction(fn: Callable[..., Any], database: str | bool) -> Callable[..., Any]:
    """A sync function in a transaction that is rolled back if it raises, or returns a result that says it failed or
    will be run anew with the client's answers."""
    using = DEFAULT_DB_ALIAS if database is True else str(database)

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        with transaction.atomic(using=using):
            result = fn(*args, **kwargs)
            if isinstance(result, InputRequiredResult) or (isinstance(result, CallToolResult) and result.is_error):
                transaction.set_rollback(True, using=using)
            return result

    return run


def handles_of(fn: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a function takes handles, and whether it may return some.

    Raises:
        ImproperlyConfigured: it does, and the session store keeps none.
    """
    hints = typing.get_type_hints(fn, include_extras=True)
    hint = hints.pop("return", Any)
    gives = hint is Any or any(handles.classes_in(hint))
    takes = any(any(handles.classes_in(hint)) for hint in hints.values())
    if takes:
        handle_store()
    return takes, gives


def describe(handle: Any, fn: Callable[..., Any], *, without_first: bool = False) -> None:
    """Give ``handle`` the signature of ``fn``, annotations resolved and resolvers pooled, perhaps without ``self``."""
    hints = pooled_hints(fn)
    parameters = list(inspect.signature(fn).parameters.values())[1 if without_first else 0 :]
    handle.__annotations__ = {
        parameter.name: hints[parameter.name] for parameter in parameters if parameter.name in hints
    }
    returned = inspect.Signature.empty
    if "return" in hints:
        returned = handle.__annotations__["return"] = handles.returned_hint(hints["return"])
    handle.__signature__ = inspect.Signature(
        [parameter.replace(annotation=hints.get(parameter.name, parameter.empty)) for parameter in parameters],
        return_annotation=returned,
    )


def pooled_hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The type hints of ``fn``, with every ``Resolve`` in them made to run in our threads.

    The SDK runs sync resolvers in threads of its own, in which Django would never close connections.
    """
    return {name: pooled_hint(hint) for name, hint in typing.get_type_hints(fn, include_extras=True).items()}


def pooled_hint(hint: Any) -> Any:
    """``hint`` as it is, but for a ``Resolve`` marker in an ``Annotated``."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint
    kind, *extras = typing.get_args(hint)
    pooled = [Resolve(pooled_resolver(extra.fn)) if isinstance(extra, Resolve) else extra for extra in extras]
    return typing.Annotated[(kind, *pooled)]


@functools.cache
def pooled_resolver(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A resolver as an async function; one for each, since the SDK tells resolvers apart by identity."""
    run = threads.asynchronous(fn)

    @functools.wraps(fn)
    async def resolve(*args: Any, **kwargs: Any) -> Any:
        return await run(*args, **kwargs)

    describe(resolve, fn)
    return resolve


def without_context(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``fn`` without its context parameter: the SDK gives static resources none, so it is filled in here."""
    name = find_context_parameter(fn)
    if name is None:
        return fn
    signature = inspect.signature(fn, eval_str=True)
    filled = with_context(fn)

    @functools.wraps(fn)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        return await filled(*args, **kwargs)

    others = [parameter for parameter in signature.parameters.values() if parameter.name != name]
    handle.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    handle.__annotations__ = {key: hint for key, hint in typing.get_type_hints(fn).items() if key != name}
    return handle


def with_context(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``fn`` with its context parameter, if it has one, filled from the running call."""
    name = find_context_parameter(fn)
    if name is None:
        return fn

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **{**kwargs, name: current_context.get()})

    return call


class Resources(ResourceManager):
    """The SDK's resources and templates, without those that are not offered at the moment.

    Args:
        offers: what is offered to whom.
    """

    def __init__(self, offers: Offers) -> None:
        super().__init__()
        self._offers = offers

    async def find(self, uri: str, principal: Principal) -> Resource | ResourceTemplate | None:
        """What serves ``uri`` to a caller: the resource of that name, else the first template that makes it."""
        caller = principal.as_it_is
        for key, found in self.matching(uri):
            if await self._offers.offered("resource", key, caller):
                return found
        return None

    def matching(self, uri: str) -> Iterator[tuple[str, Resource | ResourceTemplate]]:
        if uri in self._resources:
            yield uri, self._resources[uri]
        for template in self.list_templates():
            try:
                matches = template.matches(uri) is not None
            except ResourceSecurityError:
                # As the SDK has it: a variable that one template refuses is not for a laxer one after it.
                return
            if matches:
                yield template.uri_template, template

    async def get_resource(self, uri: AnyUrl | str, context: SDKContext[Any, Any]) -> Resource | InputRequiredResult:
        if not self._offers.hides("resource"):
            return await super().get_resource(uri, context)
        found = await self.find(str(uri), current_call.get().principal)
        if found is None:
            raise ResourceNotFoundError(f"Unknown resource: {uri}")
        if isinstance(found, Resource):
            return found
        return await found.create_resource(str(uri), found.matches(str(uri)) or {}, context=context)


def failure(error: Exception, kind: Kind, prefix: str = "") -> Exception:
    """An error of ours as the SDK is to hand it on: read by the model, or as 2026-07-28 wants it by the client."""
    answer = protocol_error(error)
    if answer.code == jsonrpc.MISSING_REQUIRED_CLIENT_CAPABILITY:
        return answer
    return (ResourceError if kind == "resource" else ToolError)(f"{prefix}{answer.message}")


def protocol_error(error: Exception) -> MCPError:
    """An error of ours as the error that a request is answered with."""
    modern = current_call.get().peer.protocol_version in MODERN_PROTOCOL_VERSIONS
    if modern and isinstance(error, ClientCannot) and error.required is not None:
        data = {"requiredCapabilities": error.required}
        return MCPError(jsonrpc.MISSING_REQUIRED_CLIENT_CAPABILITY, str(error), data)
    return MCPError(jsonrpc.INTERNAL_ERROR, explained(error))


def explained(error: Exception) -> str:
    """An error of ours as the model is to read it."""
    if isinstance(error, SessionNotFound):
        return "The session has ended, its state is gone. Start a new session."
    if isinstance(error, StoreUnavailable):
        return "The session store is not available at the moment. Try again shortly."
    return str(error)
