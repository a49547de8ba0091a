"""Tokens in the admin: made and shown once, found by their text, revoked, and never seen again."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from mcp_django.tokens.models import PREFIX, Token
from tests.admin import pages
from tests.admin.pages import XSS, text_of

if TYPE_CHECKING:
    from tests.admin.pages import Page

LIST = "/admin/mcp_tokens/token/"
ADD = f"{LIST}add/"
RAW_TOKEN = re.compile(rf"{PREFIX}[\w-]{{43}}")
HOUR = timedelta(hours=1)


def issued(username: str = "alice", **options: Any) -> tuple[Token, str]:
    return Token.objects.issue(User.objects.get_or_create(username=username)[0], **options)


def clerk(*permissions: str) -> User:
    """Somebody with these permissions on tokens, and no others."""
    return pages.staff(*permissions, app="mcp_tokens")


def page_of(token: Token) -> str:
    return reverse("admin:mcp_tokens_token_change", args=[token.pk])


def revoke(*tokens: Token, **data: str) -> dict[str, Any]:
    """What the action's form posts."""
    return {"action": "revoke_tokens", "index": "0", "_selected_action": [t.pk for t in tokens], **data}


class TokenList(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())

    def test_a_line_says_whose_it_is_what_it_is_for_and_when_it_was_used(self) -> None:
        row, raw_token = issued(
            name="laptop", server="members", scopes=["read", "write"], expires_at=timezone.now() + 49 * HOUR
        )
        Token.objects.filter(pk=row.pk).update(last_used_at=timezone.now() - 3 * HOUR)
        text = text_of(self.client.get(LIST))
        expected = (">alice<", ">laptop<", ">members<", ">read write<", "3\xa0hours ago</time>", "in 2\xa0days</time>")
        for piece in (*expected, row.short_id, ">active</span>"):
            assert piece in text, piece
        assert raw_token not in text

    def test_one_without_limits_says_so(self) -> None:
        issued()
        text = text_of(self.client.get(LIST))
        assert ">all servers<" in text
        assert text.count(">never<") == 2

    def test_what_is_over_says_why_and_can_be_filtered_for(self) -> None:
        issued("alice")[0].revoke()
        issued("bob", expires_at=timezone.now() - HOUR)
        issued("carol")
        over = text_of(self.client.get(f"{LIST}?state=over"))
        for piece in (">alice<", ">bob<", ">revoked</span>", ">expired</span>"):
            assert piece in over, piece
        assert ">carol<" not in over
        assert self.names(f"{LIST}?state=active") == ["carol"]

    def test_a_search_finds_the_row_of_a_token_which_appears_nowhere(self) -> None:
        _row, raw_token = issued()
        issued("bob")
        page = self.client.post(LIST, {"q": f" {raw_token} "})
        assert page.status_code == 302
        assert raw_token not in page["Location"]
        assert self.names(page["Location"]) == ["alice"]

    def test_a_search_goes_by_user_name_and_digest(self) -> None:
        row, _raw_token = issued(name="nightly report")
        issued("bob")
        for term in ("alice", "nightly", row.short_id):
            assert self.names(f"{LIST}?q={term}") == ["alice"], term

    def test_the_search_is_sent_as_post(self) -> None:
        assert re.search(r'<form id="changelist-search" method="post"', text_of(self.client.get(LIST)))

    def test_markup_in_a_name_stays_text(self) -> None:
        row, _raw_token = issued(name=XSS)
        for url in (LIST, page_of(row)):
            assert XSS not in text_of(self.client.get(url))

    def test_many_rows_take_as_many_queries_as_few(self) -> None:
        issued()
        few = self.queries()
        for number in range(20):
            issued(f"user-{number}")
        assert self.queries() == few

    def queries(self) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert self.client.get(LIST).status_code == 200
        return len(captured)

    def names(self, url: str) -> list[str]:
        page = self.client.get(url)
        assert page.status_code == 200
        return [row.user.username for row in page.context["cl"].result_list]


class Making(TestCase):
    def make(self, user: User, **data: Any) -> Page:
        return self.client.post(ADD, {"user": str(user.pk), "name": "", "server": "", "scopes": "", **data})

    def test_a_new_token_is_on_the_next_page_and_on_no_other(self) -> None:
        self.client.force_login(pages.admin())
        alice = User.objects.create_user("alice")
        page = self.make(alice, name="laptop", server="members", scopes="read write")
        (raw_token,) = RAW_TOKEN.findall(text_of(page))
        assert "no-store" in page["Cache-Control"]
        row = Token.objects.for_token(raw_token)
        assert (row.user, row.name, row.server, row.scopes) == (alice, "laptop", "members", "read write")
        # Neither in a cookie nor in the browser's session, where Django's messages would be.
        assert not [morsel for morsel in self.client.cookies.values() if PREFIX in morsel.value]
        assert PREFIX not in str(dict(self.client.session))
        for url in (LIST, page_of(row), "/admin/"):
            assert not RAW_TOKEN.search(text_of(self.client.get(url)))
        assert LogEntry.objects.get().object_repr == f"laptop ({row.short_id})"

    def test_a_superuser_makes_them_for_anybody_and_first_for_themselves(self) -> None:
        chief = pages.admin()
        self.client.force_login(chief)
        assert f'name="user" value="{chief.pk}"' in text_of(self.client.get(ADD))
        assert RAW_TOKEN.search(text_of(self.make(User.objects.create_user("alice"))))

    def test_others_make_them_for_themselves_alone(self) -> None:
        user = clerk("add_token")
        self.client.force_login(user)
        page = self.make(pages.admin())
        assert "That choice is not one of the available choices" in text_of(page)
        assert Token.objects.count() == 0
        assert RAW_TOKEN.search(text_of(self.make(user)))

    def test_a_server_that_does_not_exist_and_a_scope_that_is_none_are_refused(self) -> None:
        user = pages.admin()
        self.client.force_login(user)
        for wrong in ({"server": "elsewhere"}, {"scopes": 'read "write"'}):
            assert 'class="errorlist"' in text_of(self.make(user, **wrong))
        assert Token.objects.count() == 0

    def test_only_those_with_the_permission_make_any(self) -> None:
        user = clerk("view_token", "change_token")
        self.client.force_login(user)
        assert self.make(user).status_code == 403
        assert ADD not in text_of(self.client.get(LIST))


class TokenPage(TestCase):
    def test_nothing_of_it_can_be_edited(self) -> None:
        self.client.force_login(pages.admin())
        row, _raw_token = issued(name="laptop")
        text = text_of(self.client.get(page_of(row)))
        assert row.pk in text
        assert 'name="name"' not in text
        assert self.client.post(page_of(row), {"name": "mine"}).status_code == 403
        row.refresh_from_db()
        assert row.name == "laptop"

    def test_whoever_deletes_a_user_deletes_their_tokens(self) -> None:
        self.client.force_login(pages.admin())
        row, _raw_token = issued()
        user = reverse("admin:auth_user_delete", args=[row.user_id])
        assert self.client.post(user, {"post": "yes"}).status_code == 302
        assert not Token.objects.exists()


class Revoking(TestCase):
    def test_it_asks_then_revokes_those_that_are_active_and_says_how_many(self) -> None:
        self.client.force_login(pages.admin())
        one, other = issued()[0], issued("bob")[0]
        over = issued("carol", expires_at=timezone.now() - HOUR)[0]
        page = self.client.post(LIST, revoke(one, over))
        assert "Revoke this token?" in text_of(page)
        assert "Yes, revoke" in text_of(page)
        assert Token.objects.active().count() == 2
        done = self.client.post(LIST, revoke(one, over, post="yes"), follow=True)
        assert "1 token was revoked." in text_of(done)
        assert [row.pk for row in Token.objects.active()] == [other.pk]
        entry = LogEntry.objects.get()
        assert (entry.action_flag, entry.object_id) == (CHANGE, one.pk)
        assert entry.get_change_message() == "Revoked."

    def test_the_page_of_a_token_has_a_button_while_it_is_active(self) -> None:
        self.client.force_login(pages.admin())
        row = issued()[0]
        assert ">Revoke token</button>" in text_of(self.client.get(page_of(row)))
        row.revoke()
        assert ">Revoke token</button>" not in text_of(self.client.get(page_of(row)))

    def test_only_those_who_may_change_tokens_revoke_them(self) -> None:
        row = issued()[0]
        self.client.force_login(clerk("view_token"))
        self.client.post(LIST, revoke(row, post="yes"))
        assert ">Revoke token</button>" not in text_of(self.client.get(page_of(row)))
        assert Token.objects.active().exists()
