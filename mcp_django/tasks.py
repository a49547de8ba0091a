"""Pruning as a background task of ``django.tasks``, which Django has since 6.0.

On Django 5.2 this module can be imported as well (Celery imports every app's ``tasks``), but there
:func:`prune_sessions` is a plain function: nothing can be enqueued.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from mcp_django.pruning import prune

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    task = cast(Any, lambda function: function)


@task
def prune_sessions() -> dict[str, int]:
    """Prune, and return how many rows of what: the fields of :class:`mcp_django.pruning.Pruned`."""
    return asdict(prune())
