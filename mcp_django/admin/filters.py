"""Filters of the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from mcp_django.models import SessionQuerySet

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

RECENT = 1000


class StatusFilter(admin.SimpleListFilter):
    """The questions that the QuerySet answers, by the same names."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, _StrOrPromise]]:
        return [("active", _("active")), ("ended", _("ended")), ("expired", _("expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        assert isinstance(queryset, SessionQuerySet)
        match self.value():
            case "active":
                return queryset.active()
            case "ended":
                return queryset.ended()
            case "expired":
                return queryset.expired()
        return queryset


class RecentValuesFilter(admin.AllValuesFieldListFilter):
    """The values that recently used rows have: all values would be a scan of the whole table."""

    def __init__(
        self,
        field: Field[Any, Any],
        request: HttpRequest,
        params: dict[str, list[str]],
        model: type[Model],
        model_admin: admin.ModelAdmin[Any],
        field_path: str,
    ) -> None:
        super().__init__(field, request, params, model, model_admin, field_path)
        # Their models' order is that of the last use.
        recent = model._default_manager.order_by(*model._meta.ordering or ()).values_list(field_path, flat=True)[
            :RECENT
        ]
        # What the list is filtered by stays on offer, however long ago it was seen.
        self.lookup_choices: Any = sorted({*recent, *(self.lookup_val or [])} - {""})

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1 or bool(self.lookup_val)
