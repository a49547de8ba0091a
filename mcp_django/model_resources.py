"""Resources that show rows: a change of the row is a change of the resource.

For the ``models.py`` of projects, so it is imported while apps are loading, and in every management command.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.db.models.signals import class_prepared, post_save, pre_delete
from django.utils.functional import cached_property

from mcp_django import notices

logger = logging.getLogger("mcp_django.streams")

ModelT = TypeVar("ModelT", bound=type[Model])

TEMPLATE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:([^{}\s]|\{[A-Za-z_][A-Za-z0-9_]*\})+")
VARIABLE = re.compile(r"\{(\w+)\}")
PROPERTIES = (property, functools.cached_property, cached_property)


def resource_updates(uri: str, *, server: str = "default", list_changed: bool = False) -> Callable[[ModelT], ModelT]:
    """Mark a model whose rows a resource shows: whoever subscribed to it hears when one is saved or deleted.

    May be stacked, and holds for models that inherit from the marked one, which may be abstract. Notices are raised
    after the commit. ``QuerySet.update()``, ``bulk_create()`` and their like send no signals, so they raise none.

    Args:
        uri: the resource's URI, with fields or properties of the model, or ``pk``, in braces; each is expanded as by
            RFC 6570, section 3.2.2. A row in which one of them is None has no resource.
        server: the name of the server that has the resource.
        list_changed: whether a new or a deleted row changes the server's list of resources as well.

    Raises:
        ImproperlyConfigured: ``uri`` is no such template, or names what a model does not have.
    """
    if not isinstance(uri, str):
        raise ImproperlyConfigured(f"Write @resource_updates(uri), with a URI, it was used on {uri!r}.")
    if not TEMPLATE.fullmatch(uri):
        raise ImproperlyConfigured(
            f"@resource_updates({uri!r}): that is no URI with one name in each pair of braces, such as "
            "library://books/{isbn}. Operators ({+name}, {?name}), lists of names and paths ({author.name}) are not "
            "supported; a property of the model can say what is needed."
        )
    declaration = Declaration(uri, server, list_changed)

    def decorate(model: ModelT) -> ModelT:
        if not (inspect.isclass(model) and issubclass(model, Model)):  # type: ignore[redundant-expr]
            raise ImproperlyConfigured(f"@resource_updates({uri!r}) belongs on a model, it was given {model!r}.")
        declaration.prepared(model, of=model)
        class_prepared.connect(functools.partial(declaration.prepared, of=model), weak=False)
        return model

    return decorate


@dataclass(frozen=True, eq=False)
class Declaration:
    """One use of the decorator."""

    uri: str
    server: str
    list_changed: bool

    def prepared(self, sender: type[Model], of: type[Model], **kwargs: Any) -> None:
        """Listen to a model if it is the marked one or inherits from it; signals come under the class that was used.

        Raises:
            ImproperlyConfigured: it lacks what the template names.
        """
        if not issubclass(sender, of) or sender._meta.abstract:
            return
        for name in VARIABLE.findall(self.uri):
            if not has_value(sender, name):
                raise ImproperlyConfigured(
                    f"@resource_updates({self.uri!r}): {sender.__qualname__} has no field or property {name!r} whose "
                    "value could stand in a URI."
                )
        post_save.connect(self.saved, sender=sender, weak=False)
        # Before the deletion, which is in a transaction already: deferred fields can still be loaded.
        pre_delete.connect(self.deleted, sender=sender, weak=False)

    def saved(self, instance: Model, created: bool, using: str, **kwargs: Any) -> None:
        """Receives ``post_save``."""
        self._changed(instance, using, listed=created)

    def deleted(self, instance: Model, using: str, **kwargs: Any) -> None:
        """Receives ``pre_delete``."""
        self._changed(instance, using, listed=True)

    def uri_of(self, instance: Model) -> str | None:
        """The URI of the resource that shows a row; None if there is none."""
        values = {name: getattr(instance, name) for name in VARIABLE.findall(self.uri)}
        if any(value is None for value in values.values()):
            return None
        return VARIABLE.sub(lambda variable: quote(str(values[variable[1]]), safe=""), self.uri)

    def _changed(self, instance: Model, using: str, *, listed: bool) -> None:
        try:
            uri = self.uri_of(instance)
            if uri is None:
                return
            notices.notify(self.server, "resource", uri, using=using)
            if listed and self.list_changed:
                notices.notify(self.server, "resources", using=using)
        except Exception:
            # A notice is advice, the change is not.
            logger.exception("resource=%s: a row changed, and nobody could be told", self.uri)


def has_value(model: type[Model], name: str) -> bool:
    """Whether rows of a model have a plain value of this name: a property, or a column (of a foreign key author_id)."""
    columns = {field.attname for field in model._meta.concrete_fields}
    return name == "pk" or name in columns or isinstance(inspect.getattr_static(model, name, None), PROPERTIES)
