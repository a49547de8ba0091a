"""Registered functions as the SDK is to call them: async, with what the SDK does not know filled in."""

from __future__ import annotations

import contextvars
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.utilities.context_injection import find_context_parameter

from mcp_django import threads
from mcp_django.calls import current_call
from mcp_django.context import Context
from mcp_django.exceptions import HandlerError, SessionNotFound, StoreUnavailable
from mcp_django.handlers import Registration

current_context: contextvars.ContextVar[Context] = contextvars.ContextVar("mcp_django_context")
"""The context of the running handler, for those that the SDK gives none: static resources and completions."""


def prepared(registration: Registration) -> Callable[..., Awaitable[Any]]:
    """The registered function as the SDK is to call it: async, off the event loop if it was sync, bound to the
    session's handler instance if it is a method, and with errors that the model may read."""
    run = threads.asynchronous(registration.fn)
    handler_class = registration.handler

    @functools.wraps(registration.fn)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        if handler_class is not None:
            args = (current_call.get().session.handlers[handler_class], *args)
        try:
            return await run(*args, **kwargs)
        except (HandlerError, SessionNotFound, StoreUnavailable) as error:
            raise ToolError(explained(error)) from error

    if handler_class is not None:
        leave_out_self(handle, registration.fn)
    return handle


def leave_out_self(handle: Any, method: Callable[..., Any]) -> None:
    """Give ``handle`` the signature of ``method`` without its first parameter, annotations resolved."""
    signature = inspect.signature(method, eval_str=True)
    first, *others = signature.parameters.values()
    handle.__signature__ = signature.replace(parameters=others)
    handle.__annotations__ = {
        name: hint for name, hint in typing.get_type_hints(method, include_extras=True).items() if name != first.name
    }


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


def explained(error: Exception) -> str:
    """An error of ours as the model is to read it."""
    if isinstance(error, SessionNotFound):
        return "The session has ended, its state is gone. Start a new session."
    if isinstance(error, StoreUnavailable):
        return "The session store is not available at the moment. Try again shortly."
    return str(error)
