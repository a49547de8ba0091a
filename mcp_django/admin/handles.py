"""The window on handles, and the one thing that can be done to them there: to end them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.models import DELETION
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from mcp_django.admin import display
from mcp_django.admin.ending import EndingAdmin, log
from mcp_django.admin.filters import RecentValuesFilter
from mcp_django.models import StoredHandle, StoredHandleQuerySet

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise


@admin.register(StoredHandle)
class HandleAdmin(EndingAdmin):
    """What tools have made for their callers. A handle that is ended here is gone, with its state."""

    large_columns = ("state_json",)
    end_action = "end_handles"

    list_display = ["digest", "kind", "server", "belongs_to", "created", "used", "expires"]
    list_filter = [("server", RecentValuesFilter), ("kind", RecentValuesFilter)]
    search_fields = ["^id", "kind", "principal", f"owner__{get_user_model().USERNAME_FIELD}"]
    search_help_text = _("Kind, owner, principal, the beginning of a digest, or a whole handle.")
    actions = ["end_handles"]

    fieldsets = [
        (
            None,
            {
                "fields": [
                    "id",
                    ("kind", "server"),
                    ("owner", "principal_shown"),
                    ("created_at", "used_at", "expires_at"),
                ]
            },
        ),
        (_("Durable state"), {"fields": ["state", "state_version"]}),
    ]
    readonly_fields = ["principal_shown", "state"]

    @admin.display(description=_("created"), ordering="created_at")
    def created(self, handle: StoredHandle) -> SafeString:
        return display.ago(handle.created_at)

    @admin.display(description=_("last used"), ordering="used_at")
    def used(self, handle: StoredHandle) -> SafeString:
        return display.ago(handle.used_at)

    @admin.display(description=_("expires"), ordering="expires_at")
    def expires(self, handle: StoredHandle) -> SafeString:
        return display.ahead(handle.expires_at)

    @admin.display(description=_("state"))
    def state(self, handle: StoredHandle) -> SafeString:
        return display.json_block(handle.state_json)

    # To end handles

    def is_active(self, row: StoredHandle) -> bool:
        return row.expires_at > timezone.now()

    @admin.action(permissions=["end"], description=_("End selected handles"))
    def end_handles(self, request: HttpRequest, queryset: StoredHandleQuerySet) -> HttpResponse | None:
        """Ask, then end those of the selected handles that are still active."""
        return self.end_selected(request, queryset)

    def end_title(self) -> _StrOrPromise:
        return _("End handles")

    def end_question(self, count: int) -> str:
        text = ngettext(
            "End this handle? Its state is deleted, and tools will say that there is no such handle.",
            "End these %(count)d handles? Their states are deleted, and tools will say that there are no such handles.",
            count,
        )
        return text % {"count": count}

    def end_report(self, count: int) -> str:
        if not count:
            return gettext("None of the selected handles is active any more.")
        return ngettext("%(count)d handle was ended.", "%(count)d handles were ended.", count) % {"count": count}

    def end_rows(self, rows: StoredHandleQuerySet, chosen: list[Any], user: Any) -> int:
        log(user, chosen, DELETION)
        return rows.end_all()
