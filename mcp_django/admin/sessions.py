"""The window on sessions, and the one thing that can be done to them there: to end them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from mcp_django.admin import display
from mcp_django.admin.filters import RecentValuesFilter, StatusFilter
from mcp_django.admin.redaction import digested
from mcp_django.models import DIGEST_LENGTH, Process, Session, SessionQuerySet

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

    ModelAdmin = admin.ModelAdmin[Session]
else:
    ModelAdmin = admin.ModelAdmin

DIGEST: Final = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}", re.IGNORECASE)
LARGE_COLUMNS: Final = ("initialize_params_json", "state_json", "subscriptions_json")
NAMED_ON_CONFIRMATION: Final = 20
ENDED_AT_ONCE: Final = 500


class SessionChangeList(ChangeList):
    """The list, without loading what it does not show: a state may be 64 kB."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        return super().get_queryset(request, exclude_parameters).defer(*LARGE_COLUMNS)


@admin.register(Session)
class SessionAdmin(ModelAdmin):
    """Sessions to look at, and to end by those who have the change permission.

    The session id is a bearer secret and is not stored. One who has it can search for it: it is turned into its
    digest, and appears on no page and in no address.
    """

    list_display = [
        "digest",
        "client",
        "server",
        "belongs_to",
        "status_badge",
        "protocol",
        "created",
        "last_seen",
        "restore_count",
    ]
    list_filter = [
        StatusFilter,
        ("server", RecentValuesFilter),
        ("client_name", RecentValuesFilter),
        ("protocol_version", RecentValuesFilter),
    ]
    # No date_hierarchy: its queries take most of a second on 100 000 sessions, all others together milliseconds.
    list_select_related = ["owner"]
    search_fields = ["^id", "client_name", "principal", f"owner__{get_user_model().USERNAME_FIELD}"]
    search_help_text = _("Client, owner, principal, the beginning of a digest, or a whole session id.")
    show_full_result_count = False
    actions = ["end_sessions"]

    fieldsets = [
        (
            None,
            {
                "fields": [
                    "id",
                    ("status_shown", "ended_at"),
                    ("client", "server"),
                    ("protocol_version", "log_level"),
                    ("owner", "principal_shown"),
                    ("created_at", "initialized_at"),
                    ("last_seen_at", "expires_at"),
                    ("restore_count", "last_process_shown"),
                ]
            },
        ),
        (_("Durable state"), {"fields": ["state"]}),
        (_("What the client sent"), {"fields": ["initialize_params", "subscriptions"]}),
        (_("Inner workings"), {"classes": ["collapse"], "fields": [("epoch", "state_version"), "tools_fingerprint"]}),
    ]
    readonly_fields = [
        "status_shown",
        "client",
        "principal_shown",
        "last_process_shown",
        "initialize_params",
        "subscriptions",
        "state",
    ]

    class Media:
        css = {"all": ["mcp_django/admin.css"]}

    # Who may do what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Whether this user may end sessions: by the change permission, though nothing else can be changed."""
        return super().has_change_permission(request)

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return SessionChangeList

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
        self, request: HttpRequest, queryset: QuerySet[Session], search_term: str
    ) -> tuple[QuerySet[Session], bool]:
        term = digested(search_term.strip())
        if DIGEST.fullmatch(term):
            return queryset.filter(pk=term.lower()), False
        return super().get_search_results(request, queryset, term)

    @admin.display(description=_("digest"), ordering="id")
    def digest(self, session: Session) -> SafeString:
        return format_html('<span class="mcp-digest">{}</span>', session.short_id)

    @admin.display(description=_("client"), ordering="client_name")
    def client(self, session: Session) -> SafeString | None:
        client = f"{session.client_name} {session.client_version}".strip()
        return format_html('<span class="mcp-client">{}</span>', client) if client else None

    @admin.display(description=_("owner"), ordering="principal")
    def belongs_to(self, session: Session) -> _StrOrPromise:
        if session.owner is not None:
            return session.owner.get_username()
        return session.principal or _("anonymous")

    @admin.display(description=_("status"), ordering="status")
    def status_badge(self, session: Session) -> SafeString:
        return display.status_badge(session)

    @admin.display(description=_("protocol"), ordering="protocol_version")
    def protocol(self, session: Session) -> str:
        return session.protocol_version

    @admin.display(description=_("created"), ordering="created_at")
    def created(self, session: Session) -> SafeString:
        return display.ago(session.created_at)

    @admin.display(description=_("last seen"), ordering="last_seen_at")
    def last_seen(self, session: Session) -> SafeString:
        return display.ago(session.last_seen_at)

    # One session

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        session = context["original"]
        context["can_end"] = display.status_of(session) == Session.Status.ACTIVE and self.has_end_permission(request)
        context["action_checkbox_name"] = ACTION_CHECKBOX_NAME
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description=_("status"))
    def status_shown(self, session: Session) -> SafeString:
        return format_html("{} {}", display.status_badge(session), session.end_reason)

    @admin.display(description=_("principal"))
    def principal_shown(self, session: Session) -> _StrOrPromise:
        return session.principal or _("anonymous")

    @admin.display(description=_("last process"))
    def last_process_shown(self, session: Session) -> _StrOrPromise | None:
        if session.last_process is None:
            return None
        process = display.with_lease(Process.objects.filter(pk=session.last_process)).first()
        if process is None:
            return _("unknown")
        where = _("%(host)s, process %(pid)d") % {"host": process.host, "pid": process.pid}
        return format_html("{} {}", where, display.lease_badge(process))

    @admin.display(description=_("initialize params"))
    def initialize_params(self, session: Session) -> SafeString:
        return display.json_block(session.initialize_params_json)

    @admin.display(description=_("resource subscriptions"))
    def subscriptions(self, session: Session) -> SafeString:
        return display.json_block(session.subscriptions_json)

    @admin.display(description=_("state"))
    def state(self, session: Session) -> SafeString:
        return display.json_block(session.state_json)

    # To end sessions

    @admin.action(permissions=["end"], description=_("End selected sessions"))
    def end_sessions(self, request: HttpRequest, queryset: SessionQuerySet) -> HttpResponse | None:
        """Ask, then end those of the selected sessions that are still active."""
        active = queryset.using(router.db_for_write(Session)).active()
        ended = 0
        if request.POST.get("post"):
            ended = _end(active, request.user)
        elif count := active.count():
            return self._confirmation(request, active, count)
        if ended:
            text = ngettext("%(count)d session was ended.", "%(count)d sessions were ended.", ended)
            self.message_user(request, text % {"count": ended}, messages.SUCCESS)
        else:
            self.message_user(request, _("None of the selected sessions is active any more."), messages.WARNING)
        return None

    def _confirmation(self, request: HttpRequest, active: SessionQuerySet, count: int) -> HttpResponse:
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("End sessions"),
            "opts": self.opts,
            "cancel_url": request.get_full_path(),
            "count": count,
            "named": active[:NAMED_ON_CONFIRMATION],
            "unnamed": max(count - NAMED_ON_CONFIRMATION, 0),
            # Those that were ticked on the page; or all that the list has, which may be more than fit into a form.
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across") == "1",
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/mcp_django/session/end_confirmation.html", context)


def _end(active: SessionQuerySet, user: Any) -> int:
    """End sessions and write each into the admin's log. Returns how many were ended."""
    reason = f"ended in admin by {user.get_username()}"
    chosen = list(active.select_related(None).order_by("pk").only("pk", "client_name"))
    ended = 0
    for start in range(0, len(chosen), ENDED_AT_ONCE):
        some = chosen[start : start + ENDED_AT_ONCE]
        rows: Any = Session.objects.using(active.db).filter(pk__in=[session.pk for session in some])
        with transaction.atomic(using=active.db):
            ended += rows.end_all(reason)
            LogEntry.objects.log_actions(user.pk, some, CHANGE, "Ended.")
    return ended
