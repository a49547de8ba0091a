"""Users as they come with the rows of tokens: their columns are read along, and made a user when somebody looks."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from django.utils.functional import SimpleLazyObject


class UserColumns:
    """The columns of the user model that tokens refer to, in the order of its fields.

    Args:
        token_model: the model of tokens; its field ``user`` is a foreign key.
    """

    def __init__(self, token_model: Any) -> None:
        self._model: Any = token_model._meta.get_field("user").related_model
        self._names = tuple(field.attname for field in self._model._meta.concrete_fields)
        self._is_active = self._names.index("is_active") if "is_active" in self._names else None

    @property
    def lookups(self) -> tuple[str, ...]:
        """What a query of tokens reads them by."""
        return tuple(f"user__{name}" for name in self._names)

    def is_active(self, alias: str, values: tuple[Any, ...]) -> bool:
        """Whether a user may log in, as Django's own backends see it; a user model may have no column for that."""
        if self._is_active is not None:
            return bool(values[self._is_active])
        return bool(getattr(self.user(alias, values), "is_active", True))

    def user(self, alias: str, values: tuple[Any, ...]) -> Any:
        """The user, as it would come from the ORM."""
        return self._model.from_db(alias, self._names, values)

    def lazily(self, alias: str, values: tuple[Any, ...]) -> Any:
        """The same, made when it is first looked at: most calls never do."""
        return cast(Any, SimpleLazyObject(partial(self.user, alias, values)))
