"""Handles in the admin: looked at, found by their text, ended, and nothing else."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from mcp_django.admin.ending import NAMED_ON_CONFIRMATION
from mcp_django.models import StoredHandle, digest_of
from tests.admin import pages
from tests.admin.pages import XSS, text_of
from tests.unit.records import handle_row, row

LIST = "/admin/mcp_django/storedhandle/"
TEXT = "reading_list-aB3dE5gH7jK9mN1pQ3sT5v"
HOUR = timedelta(hours=1)


def page_of(handle: StoredHandle) -> str:
    return reverse("admin:mcp_django_storedhandle_change", args=[handle.pk])


def end(*handles: StoredHandle, **data: str) -> dict[str, Any]:
    """What the action's form posts."""
    return {"action": "end_handles", "index": "0", "_selected_action": [h.pk for h in handles], **data}


def confirmed(*handles: StoredHandle, **data: str) -> dict[str, Any]:
    return end(*handles, post="yes", **data)


class HandleList(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())

    def test_a_line_says_what_it_is_whose_it_is_and_how_long_it_lives(self) -> None:
        user = User.objects.create_user("librarian")
        now = timezone.now()
        handle_row(kind="cart", server="shop", owner_id=user.pk, used_at=now - 3 * HOUR, now=now - 49 * HOUR)
        text = text_of(self.client.get(LIST))
        for expected in (">cart<", ">shop<", ">librarian<", "2\xa0days ago</time>", "3\xa0hours ago</time>"):
            assert expected in text, expected
        assert re.search(r"in 1\xa0week</time>", text)

    def test_one_that_has_expired_and_was_not_pruned_says_so(self) -> None:
        handle_row(expires_at=timezone.now() - HOUR)
        assert ">expired</span>" in text_of(self.client.get(LIST))

    def test_its_owner_is_a_user_a_principal_or_anonymous(self) -> None:
        handle_row(principal="client:kiosk", server="a")
        handle_row(server="b")
        text = text_of(self.client.get(f"{LIST}?o=3"))
        assert re.findall(r'field-belongs_to">([^<]*)<', text) == ["client:kiosk", "anonymous"]

    def test_a_search_finds_the_row_of_a_text_which_appears_nowhere(self) -> None:
        found = handle_row(digest_of(TEXT))
        handle_row()
        page = self.client.post(LIST, {"q": f" {TEXT}. "})
        assert page.status_code == 302
        assert TEXT not in page["Location"]
        page = self.client.get(page["Location"])
        assert list(page.context["cl"].result_list) == [found]
        assert TEXT not in text_of(page)

    def test_it_is_narrowed_by_kind_server_and_owner(self) -> None:
        user = User.objects.create_user("librarian")
        one = handle_row(kind="cart", server="shop", owner_id=user.pk)
        handle_row()
        for query in ("kind=cart", "server=shop", "q=librar", "q=cart"):
            assert list(self.client.get(f"{LIST}?{query}").context["cl"].result_list) == [one], query

    def test_one_row_and_fifty_cost_the_same_number_of_queries_and_no_state_is_loaded(self) -> None:
        handle_row()
        self.client.get(LIST)
        with CaptureQueriesContext(connection) as one:
            self.client.get(LIST)
        for _ in range(50):
            handle_row()
        with self.assertNumQueries(len(one)):
            self.client.get(LIST)
        assert not any("state_json" in query["sql"] for query in one)


class HandlePage(TestCase):
    def setUp(self) -> None:
        ContentType.objects.clear_cache()
        self.client.force_login(pages.admin())

    def test_its_state_is_shown_without_secrets_and_without_other_handles(self) -> None:
        state = f'{{"books":["9799900000500"],"api_token":"s3cr3t","list":"{TEXT}","sha":"commit-{"a1" * 20}"}}'
        text = text_of(self.client.get(page_of(handle_row(state_json=state))))
        assert "9799900000500" in text
        assert f"commit-{'a1' * 20}" in text
        assert "s3cr3t" not in text
        assert TEXT not in text
        assert text.count("[redacted]") == 2

    def test_markup_is_text_wherever_it_comes_from(self) -> None:
        handle = handle_row(kind=XSS[:50], server=XSS, principal=XSS, state_json=f"broken {XSS}")
        for address in (LIST, page_of(handle)):
            text = text_of(self.client.get(address))
            assert "<script>alert" not in text
            assert "&lt;script&gt;alert" in text

    def test_nothing_can_be_added_changed_or_deleted(self) -> None:
        handle = handle_row()
        assert 'name="_save"' not in text_of(self.client.get(page_of(handle)))
        assert self.client.post(page_of(handle), {"kind": "other", "_save": "Save"}).status_code == 403
        assert self.client.get(f"{LIST}add/").status_code == 403
        assert self.client.post(page_of(handle).replace("change", "delete"), {"post": "yes"}).status_code == 403
        assert StoredHandle.objects.get(pk=handle.pk).kind == "reading_list"


class Ending(TestCase):
    def setUp(self) -> None:
        ContentType.objects.clear_cache()
        self.client.force_login(pages.admin())

    def messages(self, data: dict[str, Any], address: str = LIST) -> list[str]:
        return [str(message) for message in self.client.post(address, data, follow=True).context["messages"]]

    def test_the_action_asks_first_and_then_the_handles_are_gone(self) -> None:
        chosen, other = [handle_row(), handle_row()], handle_row()
        text = text_of(self.client.post(LIST, end(*chosen)))
        assert "End these 2 handles?" in text
        assert str(chosen[0]) in text
        assert StoredHandle.objects.count() == 3
        form = re.search(r'<form method="post">.*?</form>', text, re.DOTALL)
        assert form is not None
        data: dict[str, list[str]] = {}
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', form[0]):
            data.setdefault(name, []).append(value)
        assert self.messages(data) == ["2 handles were ended."]
        assert list(StoredHandle.objects.all()) == [other]

    def test_each_ending_is_in_the_admins_log(self) -> None:
        handle = handle_row()
        assert self.messages(confirmed(handle)) == ["1 handle was ended."]
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.object_repr) == (handle.pk, str(handle))
        assert (entry.action_flag, entry.user.get_username()) == (DELETION, "chief")

    def test_one_that_has_expired_stays_for_the_pruning(self) -> None:
        handle = handle_row(expires_at=timezone.now() - HOUR)
        for data in (end(handle), confirmed(handle)):
            assert self.messages(data) == ["None of the selected handles is active any more."]
        assert StoredHandle.objects.exists()
        assert not LogEntry.objects.exists()
        assert "mcp-end" not in text_of(self.client.get(page_of(handle)))

    def test_all_handles_of_a_filtered_list_can_be_ended_at_once(self) -> None:
        few = [handle_row(server="shop") for _ in range(NAMED_ON_CONFIRMATION + 2)]
        other = handle_row()
        assert self.messages(confirmed(few[0], select_across="1"), f"{LIST}?server=shop") == ["22 handles were ended."]
        assert list(StoredHandle.objects.all()) == [other]

    def test_the_page_of_a_handle_has_a_button_that_leads_to_the_confirmation(self) -> None:
        form = re.search(
            r'<form method="post" action="([^"]+)">.*?</form>',
            text_of(self.client.get(page_of(handle_row()))),
            re.DOTALL,
        )
        assert form is not None
        assert "End handle" in form[0]
        data = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', form[0]))
        assert "End this handle?" in text_of(self.client.post(form[1], data))


class Permissions(TestCase):
    def test_staff_who_may_only_view_can_end_nothing(self) -> None:
        self.client.force_login(pages.staff("view_storedhandle"))
        handle = handle_row()
        assert "end_handles" not in text_of(self.client.get(LIST))
        self.client.post(LIST, confirmed(handle))
        assert StoredHandle.objects.exists()

    def test_staff_with_the_change_permission_can_end(self) -> None:
        self.client.force_login(pages.staff("change_storedhandle"))
        self.client.post(LIST, confirmed(handle_row()))
        assert not StoredHandle.objects.exists()

    def test_the_permissions_on_sessions_are_no_permissions_on_handles(self) -> None:
        self.client.force_login(pages.staff("view_session", "change_session"))
        handle = handle_row()
        assert self.client.get(LIST).status_code == 403
        assert self.client.post(LIST, confirmed(handle)).status_code == 403
        row()
        assert StoredHandle.objects.exists()
