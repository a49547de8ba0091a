"""The window on server processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from mcp_django.admin.display import lease_badge, with_lease
from mcp_django.models import Process

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Process]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(Process)
class ProcessAdmin(ModelAdmin):
    """Which processes serve sessions, and whether they still do."""

    list_display = ["host", "pid", "version", "started_at", "seen_at", "lease"]
    # All there is to know of a process stands in its line.
    list_display_links = None
    fields = ["id", "host", "pid", "version", "started_at", "seen_at", "lease"]
    readonly_fields = ["lease"]
    show_full_result_count = False

    class Media:
        css = {"all": ["mcp_django/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Process]:
        return with_lease(super().get_queryset(request))

    @admin.display(description=_("lease"))
    def lease(self, process: Process) -> SafeString:
        return lease_badge(process)
