"""What the tests of admin pages share: who looks, what the pages' addresses are, what must never be in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import Permission, User
from django.urls import reverse

from mcp_django.models import Session
from mcp_django.testing import Client

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedASGIResponse, _MonkeyPatchedWSGIResponse

    Page = _MonkeyPatchedASGIResponse | _MonkeyPatchedWSGIResponse

LIST = "/admin/mcp_django/session/"
PROCESSES = "/admin/mcp_django/process/"
XSS = "<script>alert('x')</script>"


def admin() -> User:
    return User.objects.create_superuser("chief")


def staff(*permissions: str, app: str = "mcp_django") -> User:
    """Somebody with these permissions of an app, and no others."""
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label=app, codename__in=permissions))
    assert user.user_permissions.count() == len(permissions)
    return user


def page_of(session: Session) -> str:
    return reverse("admin:mcp_django_session_change", args=[session.pk])


def end(*sessions: Session, **data: str) -> dict[str, Any]:
    """What the action's form posts."""
    return {"action": "end_sessions", "index": "0", "_selected_action": [s.pk for s in sessions], **data}


def confirmed(*sessions: Session, **data: str) -> dict[str, Any]:
    """What the confirmation's form posts."""
    return end(*sessions, post="yes", **data)


def text_of(page: Page) -> str:
    assert page.status_code == 200, (page.status_code, page.content[:500])
    return page.content.decode()


def listed(page: Page) -> list[Session]:
    """The sessions on a list page, in their order."""
    assert page.status_code == 200, page
    return list(page.context["cl"].result_list)


async def connected(client: Client, **client_info: str) -> Session:
    """The row of a session that was opened through the endpoint by a client that calls itself so."""
    info = {"name": "admin-tests", "version": "1", **client_info}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    await client.request("initialize", params)
    await client.notify("notifications/initialized")
    assert client.session_id is not None
    return await Session.objects.aget(client_name=info["name"][:100])
