"""Handles: what a tool makes for its caller, returns as a plain string, and takes back in later calls.

They carry state from call to call where there are no sessions, or not the same one: it is the model that holds on to
them. A handle is bound to the caller that it was made for, to the server and to its class.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, get_args, get_origin

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.crypto import get_random_string

from mcp_django import blocking
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import HandleNotFound
from mcp_django.handle_batches import HandleRecord
from mcp_django.models import SHORT_DIGEST, digest_of
from mcp_django.running import current_call
from mcp_django.state import State, StateOperation, state_text
from mcp_django.store import handle_store

if TYPE_CHECKING:
    from typing import Self

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

    from mcp_django.calls import Call

# 131 bits of letters and digits: no character that a model takes for markup, or leaves out at the end of a sentence.
RANDOM_LENGTH: Final = 22
KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,49}")
WORD_BEGINS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Handle:
    """Base of handle classes. The docstring of a subclass is told to models: what it is, and which tool makes one.

    As the return type of a tool it is a string for the client, and as the type of a parameter it takes that string
    back. Whoever it was not made for is told that there is no such handle; a handle of an anonymous caller belongs to
    whoever has its text.

    Args:
        text: as :meth:`create` made it and ``str()`` gives it. It is not looked up before it is used.

    Raises:
        ValueError: the text is none of this class.
    """

    kind: ClassVar[str]
    """What the text begins with: the class's name in lower case, unless the class names another. It is stored with
    each handle, so changing it ends them."""
    ttl: ClassVar[timedelta | None] = None
    """How long a handle lives without being used; ``MCP_DJANGO_HANDLE_TTL`` by default."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" not in vars(cls):
            cls.kind = WORD_BEGINS.sub("_", cls.__name__).lower()
        _check_class(cls)

    def __init__(self, text: str) -> None:
        if type(self) is Handle:
            raise TypeError("Handle is to be subclassed: each kind of handle is a class of its own.")
        if not re.fullmatch(rf"{self.kind}-[A-Za-z0-9]{{{RANDOM_LENGTH},64}}", text):
            raise ValueError(
                f"This is no {self.kind}: their text begins with {self.kind + '-'!r}, and is to be passed on as a tool "
                f"returned it. {self.about()}".rstrip()
            )
        self._text = text
        self._digest = digest_of(text)
        self._checked_in: Call | None = None

    def __str__(self) -> str:
        """The text that goes to the client and comes back. Of an anonymous caller's handle it is a secret."""
        return self._text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._digest[:SHORT_DIGEST]}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._text == str(other)

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def about(cls) -> str:
        """What models are told of this kind: the class's own docstring."""
        return inspect.cleandoc(vars(cls).get("__doc__") or "")

    @classmethod
    async def acreate(cls, state: Mapping[str, Any] | None = None) -> Self:
        """Make a handle for the caller of the running call, with this state.

        Raises:
            StateInvalid, StateTooLarge: the state is not plain JSON, or too much.
        """
        call, now = _running_call(), timezone.now()
        handle = cls(f"{cls.kind}-{get_random_string(RANDOM_LENGTH)}")
        user = call.principal.user
        record = HandleRecord(
            digest=handle._digest,
            server=call.server,
            kind=cls.kind,
            principal=call.principal.key,
            owner_id=user.pk if user is not None else None,
            state_json=state_text(dict(state or {})),
            created_at=now,
            expires_at=now + cls._lifetime(),
        )
        await handle_store().create(record)
        handle._checked_in = call
        return handle

    @classmethod
    def create(cls, state: Mapping[str, Any] | None = None) -> Self:
        """See :meth:`acreate`."""
        name = f"{cls.__name__}.create"
        return blocking.wait(name, f"{cls.__name__}.acreate", cls.acreate, state, writes_to=_database())

    @property
    def state(self) -> State:
        """The handle's durable state. What is done with it raises :class:`HandleNotFound` if the caller may not have
        the handle, or nobody any more."""
        return State(_Guarded(self), self._digest)

    async def aend(self) -> None:
        """End the handle: nobody can use it any more, and its state is gone.

        Raises:
            HandleNotFound: it is not the caller's, or had ended before.
        """
        await self._check()
        if not await handle_store().end(self._digest):
            raise self._not_found()

    def end(self) -> None:
        """See :meth:`aend`."""
        blocking.wait("handle.end", "handle.aend", self.aend, writes_to=_database())

    @classmethod
    def _lifetime(cls) -> timedelta:
        return cls.ttl or mcp_settings.HANDLE_TTL

    async def _check(self) -> None:
        """See that there is such a handle for the caller of the running call; looked at once in each call.

        Raises:
            HandleNotFound: there is not.
        """
        call = _running_call()
        if self._checked_in is call:
            return
        head, now = await handle_store().head(self._digest), timezone.now()
        # The principal is compared here and not in the query: some collations take "Bob" for "bob ".
        wanted = (call.server, self.kind, call.principal.key)
        if head is None or head.expires_at <= now or (head.server, head.kind, head.principal) != wanted:
            raise self._not_found()
        self._checked_in = call
        ttl = self._lifetime()
        if now - head.used_at >= min(mcp_settings.TOUCH_RESOLUTION, ttl / 2):
            handle_store().touch(self._digest, now, ttl)

    def _not_found(self) -> HandleNotFound:
        return HandleNotFound(self.kind, self.about())

    # Pydantic's hooks. It is not imported before it calls them: management commands import mcp.py modules too.

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415

        return core_schema.no_info_plain_validator_function(
            cls._of, serialization=core_schema.to_string_ser_schema(when_used="always")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "description": cls.about() or f"A {cls.kind}, as a tool returned it."}

    @classmethod
    def _of(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        # What is no string fails as a text that is empty.
        return cls(value if isinstance(value, str) else "")


class _Guarded:
    """The state of a handle as the store has it, for those who may have the handle."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._store = handle_store()
        self.alias = getattr(self._store, "alias", None)

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        await self._handle._check()
        with self._explained():
            return await self._store.read_state(digest)

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        await self._handle._check()
        with self._explained():
            return await self._store.change_state(digest, operation)

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        # Only what has been read is replaced.
        return await self._store.replace_state(digest, state_json, version)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The store does not know what kind of handle it is that is not there."""
        try:
            yield
        except HandleNotFound:
            raise self._handle._not_found() from None


def _running_call() -> Call:
    try:
        return current_call.get()
    except LookupError:
        raise RuntimeError("Handles are made and used in handlers and hooks only: here is no caller.") from None


def _database() -> Any:
    return getattr(handle_store(), "alias", None)


def place_of(cls: type[Handle]) -> str:
    """Where a class is written, for error messages."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _check_class(cls: type[Handle]) -> None:
    if not KIND.fullmatch(cls.kind):
        raise ImproperlyConfigured(
            f"{place_of(cls)}: a handle's kind has up to 50 lower-case letters, digits and underscores, and begins "
            f"with a letter; got {cls.kind!r}. Give the class an attribute `kind`."
        )
    if cls.ttl is not None and not (isinstance(cls.ttl, timedelta) and cls.ttl > timedelta(0)):  # type: ignore[redundant-expr]
        raise ImproperlyConfigured(f"{place_of(cls)}: ttl must be a timedelta longer than zero, got {cls.ttl!r}.")


# What bindings need to know of handlers that take and return handles


def is_handle(hint: Any) -> bool:
    """Whether a type hint is a handle class itself."""
    return inspect.isclass(hint) and get_origin(hint) is None and issubclass(hint, Handle)


def classes_in(hint: Any) -> Iterator[type[Handle]]:
    """The handle classes in a type hint, however deep.

    Raises:
        TypeError: there is ``Handle`` itself.
    """
    if hint is Handle:
        raise TypeError("Handle is to be subclassed: annotate with a subclass")
    if is_handle(hint):
        yield hint
    for part in get_args(hint):
        yield from classes_in(part)


def returned_hint(hint: Any) -> Any:
    """A return annotation as the SDK knows it: for a handle class itself, a string with the class's description."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else [hint]
    if not is_handle(kind):
        return hint
    from pydantic import Field  # noqa: PLC0415 - see Handle's hooks

    return Annotated[(str, Field(description=kind.about() or None), *extras)]


def returned(value: Any) -> Any:
    """What a handler returned, with its handles as texts: the SDK would put quotes around them."""
    if isinstance(value, Handle):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [returned(item) for item in value]
    return value


async def check_arguments(arguments: Iterable[Any]) -> None:
    """See that the caller may have all handles among the arguments; they are looked up together.

    Raises:
        HandleNotFound: there is one that it may not have.
    """
    found = dict.fromkeys(handle for argument in arguments for handle in _handles_in(argument))
    if len(found) == 1:
        await next(iter(found))._check()
    elif found:
        await asyncio.gather(*(handle._check() for handle in found))


def _handles_in(value: Any) -> Iterator[Handle]:
    if isinstance(value, Handle):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _handles_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _handles_in(item)
