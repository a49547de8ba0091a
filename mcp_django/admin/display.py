"""How rows are shown. Everything goes through ``format_html``, so nothing a client sent becomes markup."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.formats import localize
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from mcp_django.admin.redaction import readable
from mcp_django.models import Process, Session


def badge(kind: str, label: str | Promise) -> SafeString:
    """A coloured label; the colour repeats what the text says."""
    return format_html('<span class="mcp-badge mcp-badge-{}">{}</span>', kind, label)


def status_of(session: Session) -> str:
    """The status as requests find it: a session past its expiry is expired, whether or not it is marked so."""
    if session.status == Session.Status.ACTIVE and session.expires_at <= timezone.now():
        return Session.Status.EXPIRED.value
    return session.status


def status_badge(session: Session) -> SafeString:
    status = status_of(session)
    return badge(status, dict(Session.Status.choices).get(status, status))


def ago(moment: datetime) -> SafeString:
    """How long ago, since that is short and what one wants to know; the moment itself is its title."""
    recent = timezone.now() - moment < timedelta(minutes=1)
    return _time(
        moment, gettext("just now") if recent else gettext("%(time)s ago") % {"time": timesince(moment, depth=1)}
    )


def ahead(moment: datetime) -> SafeString:
    """How soon; or that it has come."""
    if moment <= timezone.now():
        return badge("expired", _("expired"))
    return _time(moment, gettext("in %(time)s") % {"time": timeuntil(moment, depth=1)})


def _time(moment: datetime, shown: str) -> SafeString:
    at = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), localize(at), shown)


def json_block(text: str) -> SafeString:
    """Stored JSON in a box that scrolls, with the keyboard too."""
    return format_html('<pre class="mcp-json" tabindex="0">{}</pre>', readable(text))


def with_lease(processes: QuerySet[Process]) -> QuerySet[Process]:
    """Processes with ``alive``: whether the lease runs, by the clock that renews it, the database's."""
    runs = Q(seen_at__gt=Now() - Process.LEASE)
    return processes.annotate(alive=ExpressionWrapper(runs, output_field=BooleanField()))


def lease_badge(process: Process) -> SafeString:
    """For a process that came through :func:`with_lease`."""
    return badge("active", _("alive")) if vars(process)["alive"] else badge("terminated", _("gone"))
