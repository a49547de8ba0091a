"""What the windows on sessions and on handles share: rows are looked at, searched for by a secret, and ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from mcp_django.admin.redaction import digested
from mcp_django.models import DIGEST_LENGTH

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

DIGEST: Final = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}", re.IGNORECASE)
NAMED_ON_CONFIRMATION: Final = 20
ENDED_AT_ONCE: Final = 500


class LeanChangeList(ChangeList):
    """A list, without loading what it does not show: a state may be 64 kB."""

    model_admin: EndingAdmin

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        return super().get_queryset(request, exclude_parameters).defer(*self.model_admin.large_columns)


class EndingAdmin(ModelAdmin):
    """Rows to look at, and to end by those who have the change permission.

    Their ids are secrets and are not stored. One who has one can search for it: it is turned into its digest, and
    appears on no page and in no address.
    """

    large_columns: ClassVar[tuple[str, ...]]
    end_action: ClassVar[str]
    """The name of the action, which calls :meth:`end_selected`."""
    end_button: ClassVar[_StrOrPromise] = _("End %(name)s")
    end_confirmed: ClassVar[_StrOrPromise] = _("Yes, end")

    list_select_related = ["owner"]
    show_full_result_count = False

    class Media:
        css = {"all": ["mcp_django/admin.css"]}

    # What a subclass says

    def is_active(self, row: Any) -> bool:
        """Whether there is something to end."""
        raise NotImplementedError

    def end_title(self) -> _StrOrPromise:
        raise NotImplementedError

    def end_question(self, count: int) -> str:
        """What is asked before so many are ended."""
        raise NotImplementedError

    def end_report(self, count: int) -> str:
        """What is said after so many, or none, were ended."""
        raise NotImplementedError

    def end_rows(self, rows: Any, chosen: list[Any], user: Any) -> int:
        """End the rows that are still active, write those chosen into the admin's log, and say how many it were."""
        raise NotImplementedError

    # Who may do what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Whether this user may end rows: by the change permission, though nothing else can be changed."""
        return super().has_change_permission(request)

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LeanChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """The list. A search comes as POST and goes on as an address, in which an id has become its digest."""
        posted = request.method == "POST" and SEARCH_VAR in request.POST
        term = (request.POST if posted else request.GET).get(SEARCH_VAR, "")
        if posted or digested(term) != term:
            query = request.GET.copy()
            query.pop(PAGE_VAR, None)
            query[SEARCH_VAR] = digested(term)
            return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")
        return super().changelist_view(request, extra_context)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = digested(search_term.strip())
        if DIGEST.fullmatch(term):
            return queryset.filter(pk=term.lower()), False
        return super().get_search_results(request, queryset, term)

    @admin.display(description=_("digest"), ordering="id")
    def digest(self, row: Any) -> SafeString:
        return format_html('<span class="mcp-digest">{}</span>', row.short_id)

    @admin.display(description=_("owner"), ordering="principal")
    def belongs_to(self, row: Any) -> _StrOrPromise:
        if row.owner is not None:
            return str(row.owner.get_username())
        return self.principal_shown(row)

    # One row

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        row = context.get("original")
        context["can_end"] = row is not None and self.is_active(row) and self.has_end_permission(request)
        context["end_button"] = self.end_button % {"name": self.opts.verbose_name}
        context["end_action"] = self.end_action
        context["action_checkbox_name"] = ACTION_CHECKBOX_NAME
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description=_("principal"))
    def principal_shown(self, row: Any) -> _StrOrPromise:
        return row.principal or _("anonymous")

    # To end rows

    def end_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Ask, then end those of the selected rows that are still active."""
        active = queryset.using(router.db_for_write(self.model)).active()
        ended = 0
        if request.POST.get("post"):
            ended = self._end(active, request.user)
        elif count := active.count():
            return self._confirmation(request, active, count)
        self.message_user(request, self.end_report(ended), messages.SUCCESS if ended else messages.WARNING)
        return None

    def _confirmation(self, request: HttpRequest, active: Any, count: int) -> HttpResponse:
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": self.end_title(),
            "opts": self.opts,
            "cancel_url": request.get_full_path(),
            "question": self.end_question(count),
            "named": active.defer(*self.large_columns)[:NAMED_ON_CONFIRMATION],
            "unnamed": max(count - NAMED_ON_CONFIRMATION, 0),
            # Those that were ticked on the page; or all that the list has, which may be more than fit into a form.
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across") == "1",
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "end_action": self.end_action,
            "end_confirmed": self.end_confirmed,
        }
        return TemplateResponse(request, "admin/mcp_django/end_confirmation.html", context)

    def _end(self, active: Any, user: Any) -> int:
        chosen = list(active.select_related(None).order_by("pk").defer(*self.large_columns))
        ended = 0
        for start in range(0, len(chosen), ENDED_AT_ONCE):
            some = chosen[start : start + ENDED_AT_ONCE]
            rows = self.model._default_manager.using(active.db).filter(pk__in=[row.pk for row in some])
            with transaction.atomic(using=active.db):
                ended += self.end_rows(rows, some, user)
        return ended


def log(user: Any, rows: list[Any], flag: int, text: str = "Ended.") -> None:
    """Write into the admin's log that rows were ended."""
    LogEntry.objects.log_actions(user.pk, rows, flag, text)
