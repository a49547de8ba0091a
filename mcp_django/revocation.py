"""Revocation: what ends with the user whom it belongs to.

The sessions of a user who is deactivated or deleted by ``save()`` or ``delete()`` end at once, within the transaction
around it if there is one, and every process hears of it. ``QuerySet.update()`` sends no signal: then the credentials
are refused at the next request, and the patrol finds them out where they hold a stream open.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models.signals import post_save, pre_delete

from mcp_django import notices
from mcp_django.models import Session, StoredHandle
from mcp_django.store import ORMStore, session_store
from mcp_django.visits import alias


def connect() -> None:
    """Listen to what happens to users. Once all models are loaded."""
    user_model = get_user_model()
    # Proxies and children send signals of their own; and listening to all senders would slow down every delete.
    for model in apps.get_models():
        if issubclass(model, user_model):
            post_save.connect(user_saved, sender=model, dispatch_uid="mcp_django.revocation")
            pre_delete.connect(user_deleted, sender=model, dispatch_uid="mcp_django.revocation")


def user_saved(*, instance: Any, created: bool, raw: bool, using: str | None, **kwargs: Any) -> None:
    """End the sessions of a user who is deactivated. Costs nothing for those who are active."""
    if created or raw or getattr(instance, "is_active", True):
        return
    soon(using, functools.partial(end_sessions, instance.pk, "the user was deactivated"))


def user_deleted(*, instance: Any, using: str | None, **kwargs: Any) -> None:
    """End the sessions of a user who is deleted, and delete the handles."""
    soon(using, functools.partial(end_everything, instance.pk))


def soon(using: str | None, end: Callable[[], None]) -> None:
    """Call ``end`` within the transaction that changes the user, if that is one of the sessions' database; else after
    it."""
    # A store that keeps sessions elsewhere has no rows; its owners come to know it by their credentials.
    if not isinstance(session_store(), ORMStore):
        return
    if using in (None, alias()):
        end()
    else:
        transaction.on_commit(end, using=using, robust=True)


def end_everything(user_pk: Any) -> None:
    """End the sessions of a user, and delete the handles."""
    StoredHandle.objects.using(alias()).filter(owner_id=user_pk).delete()
    end_sessions(user_pk, "the user was deleted")


def end_sessions(user_pk: Any, reason: str) -> None:
    """End the active sessions of a user, and have every process look at them."""
    sessions = Session.objects.using(alias()).filter(owner_id=user_pk)
    digests = list(sessions.active().values_list("pk", flat=True))
    if digests:
        sessions.end_all(reason)
        transaction.on_commit(functools.partial(tell, digests), using=alias(), robust=True)


def tell(digests: list[str]) -> None:
    """Have every process look at sessions."""
    for digest in digests:
        notices.hint(f"session:{digest}")
