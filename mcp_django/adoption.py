"""Models that the SDK made, as models of ours."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound=BaseModel)


class QuickPrivates(BaseModel):
    """Reads private attributes where pydantic keeps them. Its own way there looks for descriptors first, which takes
    several times as long, and what the SDK keeps in them is read many times in a call."""

    def __getattr__(self, name: str) -> Any:
        private = object.__getattribute__(self, "__pydantic_private__")
        if private is not None and name in private:
            return private[name]
        return super().__getattr__(name)  # type: ignore[misc]


def adopted(model: BaseModel, cls: type[ModelT]) -> ModelT:
    """A model as one of ``cls``, which has no more fields than its own class: the same object with another class."""
    object.__setattr__(model, "__class__", cls)
    return cast(ModelT, model)
