"""What rows have in common: keys that are digests, and states that are changed by compare-and-set."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

DIGEST_LENGTH = 64
SHORT_DIGEST = 12


def digest_of(raw_id: str) -> str:
    """The key under which a session is stored: SHA-256 of its id, in hex.

    The id itself is a bearer secret; it is stored and logged nowhere.
    """
    return hashlib.sha256(raw_id.encode("utf-8", "surrogatepass")).hexdigest()


class Row(models.Model):
    """A row that is changed by conditional UPDATEs of itself."""

    class Meta:
        abstract = True

    def _rows(self) -> Any:
        return type(self)._default_manager.using(self._state.db).filter(pk=self.pk)


class Stateful(Row):
    """A row with a durable state that handlers change: JSON, and a version that every change raises."""

    state_json = models.TextField(_("state"), default="{}")
    state_version = models.PositiveBigIntegerField(_("state version"), default=0)

    class Meta:
        abstract = True

    @property
    def state(self) -> dict[str, Any]:
        """The state, as handlers see it."""
        return object_of(self.state_json)

    def replace_state(self, state_json: str, *, version: int) -> bool:
        """Put a new state in place of the one with this version. False if another came first or the row is over."""
        rows = self._rows().active().filter(state_version=version)
        return bool(rows.update(state_json=state_json, state_version=version + 1) == 1)


def object_of(text: str) -> dict[str, Any]:
    """The JSON object that a column holds."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
