"""The window on tokens: they are made here, shown once, looked at without being seen, and revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.models import CHANGE
from django.contrib.admin.widgets import AdminTextInputWidget
from django.contrib.auth import get_user_model
from django.db.models import Field, ForeignKey, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from mcp_django.admin import display
from mcp_django.admin.ending import EndingAdmin, log
from mcp_django.admin.filters import RecentValuesFilter
from mcp_django.models import digest_of
from mcp_django.server import servers
from mcp_django.tokens.models import Token, TokenQuerySet, new_token

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise


class StateFilter(admin.SimpleListFilter):
    """The questions that the QuerySet answers."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, _StrOrPromise]]:
        return [("active", _("active")), ("over", _("revoked or expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        assert isinstance(queryset, TokenQuerySet)
        match self.value():
            case "active":
                return queryset.active()
            case "over":
                return queryset.over()
        return queryset


@admin.register(Token)
class TokenAdmin(EndingAdmin):
    """Tokens, without the tokens themselves, which are not stored. One that is made here is shown on the page that
    follows and never again.

    Whoever has a token calls as its user. So those who are no superusers make tokens for themselves only, whatever
    permissions they have.
    """

    large_columns = ()
    end_action = "revoke_tokens"
    end_button = _("Revoke %(name)s")
    end_confirmed = _("Yes, revoke")

    list_display = ["digest", "belongs_to", "name", "server_shown", "scopes", "created", "used", "expires", "state"]
    list_select_related = ["user"]
    list_filter = [StateFilter, ("server", RecentValuesFilter)]
    search_fields = ["^id", "name", f"user__{get_user_model().USERNAME_FIELD}"]
    search_help_text = _("Name, user, the beginning of a digest, or a whole token.")
    actions = ["revoke_tokens"]
    raw_id_fields = ["user"]

    fieldsets = [
        (
            None,
            {
                "fields": [
                    "id",
                    ("user", "name"),
                    ("server_shown", "scopes"),
                    ("created_at", "last_used_at"),
                    ("expires_at", "revoked_at"),
                ]
            },
        ),
    ]
    add_fieldsets = [(None, {"fields": ["user", "name", "server", "scopes", "expires_at"]})]
    readonly_fields = ["server_shown"]

    @admin.display(description=_("user"), ordering=f"user__{get_user_model().USERNAME_FIELD}")
    def belongs_to(self, token: Token) -> str:
        return str(token.user.get_username())

    @admin.display(description=_("server"), ordering="server")
    def server_shown(self, token: Token) -> _StrOrPromise:
        return token.server or _("all servers")

    @admin.display(description=_("created"), ordering="created_at")
    def created(self, token: Token) -> SafeString:
        return display.ago(token.created_at)

    @admin.display(description=_("last used"), ordering="last_used_at")
    def used(self, token: Token) -> _StrOrPromise:
        return display.ago(token.last_used_at) if token.last_used_at else _("never")

    @admin.display(description=_("expires"), ordering="expires_at")
    def expires(self, token: Token) -> _StrOrPromise:
        return display.ahead(token.expires_at) if token.expires_at else _("never")

    @admin.display(description=_("state"))
    def state(self, token: Token) -> SafeString:
        match token.state:
            case Token.State.REVOKED:
                return display.badge("terminated", token.state.label)
            case state:
                return display.badge(state.value, state.label)

    # To make tokens

    def has_add_permission(self, request: HttpRequest) -> bool:
        return admin.ModelAdmin.has_add_permission(self, request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Tokens go with their users, so who deletes a user must be able to delete them.
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.add_fieldsets if obj is None else super().get_fieldsets(request, obj)

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        return {"user": request.user.pk, **super().get_changeform_initial_data(request)}

    def formfield_for_foreignkey(self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        if not getattr(request.user, "is_superuser", False):
            kwargs["queryset"] = get_user_model()._default_manager.filter(pk__in=[request.user.pk])
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "server":
            names = sorted(server.name for server in servers())
            return forms.ChoiceField(
                choices=[("", _("all servers")), *zip(names, names, strict=True)],
                required=False,
                help_text=db_field.help_text,
            )
        if db_field.name == "scopes":
            kwargs["widget"] = AdminTextInputWidget
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Token, form: Any, change: bool) -> None:
        raw_token = new_token()
        obj.pk = digest_of(raw_token)
        super().save_model(request, obj, form, change)
        # Not as one of Django's messages: those are kept in cookies or in the database till they are shown.
        vars(request)["mcp_token"] = raw_token

    def response_add(self, request: HttpRequest, obj: Token, post_url_continue: Any = None) -> HttpResponse:
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("Copy the token now"),
            "opts": self.opts,
            "token": obj,
            "raw_token": vars(request).pop("mcp_token"),
        }
        return TemplateResponse(request, "admin/mcp_tokens/token/made.html", context)

    # To revoke tokens

    def is_active(self, row: Token) -> bool:
        return row.state == Token.State.ACTIVE

    @admin.action(permissions=["end"], description=_("Revoke selected tokens"))
    def revoke_tokens(self, request: HttpRequest, queryset: TokenQuerySet) -> HttpResponse | None:
        """Ask, then revoke those of the selected tokens that are still active."""
        return self.end_selected(request, queryset)

    def end_title(self) -> _StrOrPromise:
        return _("Revoke tokens")

    def end_question(self, count: int) -> str:
        text = ngettext(
            "Revoke this token? Its next request is refused, and streams that it holds open are closed.",
            "Revoke these %(count)d tokens? Their next requests are refused, and streams that they hold open are "
            "closed.",
            count,
        )
        return text % {"count": count}

    def end_report(self, count: int) -> str:
        if not count:
            return gettext("None of the selected tokens is active any more.")
        return ngettext("%(count)d token was revoked.", "%(count)d tokens were revoked.", count) % {"count": count}

    def end_rows(self, rows: TokenQuerySet, chosen: list[Any], user: Any) -> int:
        log(user, chosen, CHANGE, "Revoked.")
        return rows.revoke_all()
