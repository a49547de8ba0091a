"""The window on sessions, and the one thing that can be done to them there: to end them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from mcp_django.admin import display
from mcp_django.admin.ending import EndingAdmin, log
from mcp_django.admin.filters import RecentValuesFilter, StatusFilter
from mcp_django.models import Process, Session, SessionQuerySet

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise


@admin.register(Session)
class SessionAdmin(EndingAdmin):
    """Sessions to look at, and to end by those who have the change permission."""

    large_columns = ("initialize_params_json", "state_json", "subscriptions_json")
    end_action = "end_sessions"

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
    search_fields = ["^id", "client_name", "principal", f"owner__{get_user_model().USERNAME_FIELD}"]
    search_help_text = _("Client, owner, principal, the beginning of a digest, or a whole session id.")
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

    # The list

    @admin.display(description=_("client"), ordering="client_name")
    def client(self, session: Session) -> SafeString | None:
        client = f"{session.client_name} {session.client_version}".strip()
        return format_html('<span class="mcp-client">{}</span>', client) if client else None

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

    @admin.display(description=_("status"))
    def status_shown(self, session: Session) -> SafeString:
        return format_html("{} {}", display.status_badge(session), session.end_reason)

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

    def is_active(self, row: Session) -> bool:
        return display.status_of(row) == Session.Status.ACTIVE

    @admin.action(permissions=["end"], description=_("End selected sessions"))
    def end_sessions(self, request: HttpRequest, queryset: SessionQuerySet) -> HttpResponse | None:
        """Ask, then end those of the selected sessions that are still active."""
        return self.end_selected(request, queryset)

    def end_title(self) -> _StrOrPromise:
        return _("End sessions")

    def end_question(self, count: int) -> str:
        text = ngettext(
            "End this session? Its client gets “not found” for its next request and has to open a new one.",
            "End these %(count)d sessions? Their clients get “not found” for their next requests and have to open new "
            "ones.",
            count,
        )
        return text % {"count": count}

    def end_report(self, count: int) -> str:
        if not count:
            return gettext("None of the selected sessions is active any more.")
        return ngettext("%(count)d session was ended.", "%(count)d sessions were ended.", count) % {"count": count}

    def end_rows(self, rows: SessionQuerySet, chosen: list[Any], user: Any) -> int:
        log(user, chosen, CHANGE)
        return rows.end_all(f"ended in admin by {user.get_username()}")
