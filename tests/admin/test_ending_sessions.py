"""Ending sessions from the admin: who may, what it does, and that it reaches live sessions at once."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import TestCase
from django.utils import timezone

from demo_project.everything.server import everything
from mcp_django.admin.ending import NAMED_ON_CONFIRMATION
from mcp_django.models import Session
from mcp_django.testing import Client, ClientError, inline
from tests.admin import pages
from tests.admin.pages import LIST, confirmed, connected, end, page_of, text_of
from tests.unit.records import columns, row


def messages_of(page: object) -> list[str]:
    return [str(message) for message in page.context["messages"]]  # type: ignore[attr-defined]


class Ending(TestCase):
    def setUp(self) -> None:
        # A test that empties all tables makes the content types anew, with other ids than those remembered here.
        ContentType.objects.clear_cache()
        self.client.force_login(pages.admin())

    def test_the_action_asks_first_and_changes_nothing_yet(self) -> None:
        session = row(client_name="cursor")
        before = columns(session)
        text = text_of(self.client.post(LIST, end(session)))
        assert "End this session?" in text
        assert f"{session.short_id} (cursor)" in text
        assert columns(session) == before
        assert not LogEntry.objects.exists()

    def test_what_the_confirmation_posts_ends_the_sessions(self) -> None:
        chosen, other = [row(), row()], row()
        form = re.search(r'<form method="post">.*?</form>', text_of(self.client.post(LIST, end(*chosen))), re.DOTALL)
        assert form is not None
        data: dict[str, list[str]] = {}
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', form[0]):
            data.setdefault(name, []).append(value)
        page = self.client.post(LIST, data, follow=True)
        assert messages_of(page) == ["2 sessions were ended."]
        for session in chosen:
            session.refresh_from_db()
            assert session.status == Session.Status.TERMINATED
        assert Session.objects.get(pk=other.pk).status == Session.Status.ACTIVE

    def test_the_row_says_who_ended_it_and_its_epoch_is_raised(self) -> None:
        session = row(epoch=3)
        page = self.client.post(LIST, confirmed(session), follow=True)
        assert messages_of(page) == ["1 session was ended."]
        session.refresh_from_db()
        assert (session.status, session.end_reason) == (Session.Status.TERMINATED, "ended in admin by chief")
        assert session.epoch == 4
        assert session.ended_at is not None

    def test_each_ending_is_in_the_admins_log_and_in_the_sessions_history(self) -> None:
        sessions = [row(), row()]
        self.client.post(LIST, confirmed(*sessions))
        entries = LogEntry.objects.filter(action_flag=CHANGE, user__username="chief")
        assert {entry.object_id for entry in entries} == {session.pk for session in sessions}
        assert "Ended." in text_of(self.client.get(page_of(sessions[0]).replace("change", "history")))

    def test_sessions_that_have_ended_or_expired_stay_as_they_are(self) -> None:
        ended, overdue = row(), row(expires_at=timezone.now() - timedelta(seconds=1))
        ended.end("ended by the client")
        before = [columns(ended), columns(overdue)]
        for data in (end(ended, overdue), confirmed(ended, overdue)):
            page = self.client.post(LIST, data, follow=True)
            assert messages_of(page) == ["None of the selected sessions is active any more."]
        assert [columns(ended), columns(overdue)] == before
        assert not LogEntry.objects.exists()

    def test_among_selected_sessions_only_the_active_ones_are_counted(self) -> None:
        active, ended = row(), row()
        ended.end("ended by the client")
        assert "End this session?" in text_of(self.client.post(LIST, end(active, ended)))
        page = self.client.post(LIST, confirmed(active, ended), follow=True)
        assert messages_of(page) == ["1 session was ended."]
        ended.refresh_from_db()
        assert ended.end_reason == "ended by the client"

    def test_all_sessions_of_a_filtered_list_can_be_ended_at_once(self) -> None:
        few = [row(server="library") for _ in range(NAMED_ON_CONFIRMATION + 2)]
        other = row(server="everything")
        address = f"{LIST}?server=library"
        text = text_of(self.client.post(address, end(few[0], select_across="1")))
        assert f"End these {len(few)} sessions?" in text
        assert "and 2 more" in text
        assert 'name="select_across" value="1"' in text
        assert text.count('name="_selected_action"') == 1
        page = self.client.post(address, confirmed(few[0], select_across="1"), follow=True)
        assert messages_of(page) == [f"{len(few)} sessions were ended."]
        assert set(Session.objects.filter(status="active")) == {other}
        assert LogEntry.objects.count() == len(few)

    def test_sessions_found_by_a_search_can_be_ended(self) -> None:
        owner = User.objects.create_user("librarian")
        session, other = row(owner_id=owner.pk), row()
        self.client.post(f"{LIST}?q=librar", confirmed(session, select_across="1"))
        session.refresh_from_db()
        other.refresh_from_db()
        assert (session.status, other.status) == ("terminated", "active")

    def test_the_page_of_an_active_session_has_a_button_that_leads_to_the_confirmation(self) -> None:
        session = row()
        form = re.search(
            r'<form method="post" action="([^"]+)">.*?</form>', text_of(self.client.get(page_of(session))), re.DOTALL
        )
        assert form is not None
        assert 'type="submit"' in form[0]
        data = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', form[0]))
        assert "End this session?" in text_of(self.client.post(form[1], data))

    def test_the_page_of_an_ended_session_has_no_button(self) -> None:
        session = row()
        session.end("ended by the client")
        assert "mcp-end" not in text_of(self.client.get(page_of(session)))

    def test_a_get_ends_nothing(self) -> None:
        session = row()
        self.client.get(LIST, confirmed(session))
        session.refresh_from_db()
        assert session.status == "active"


class Permissions(TestCase):
    def test_staff_who_may_only_view_see_everything_and_can_end_nothing(self) -> None:
        self.client.force_login(pages.staff("view_session"))
        session = row()
        assert "end_sessions" not in text_of(self.client.get(LIST))
        assert "mcp-end" not in text_of(self.client.get(page_of(session)))
        for data in (end(session), confirmed(session)):
            self.client.post(LIST, data)
        session.refresh_from_db()
        assert session.status == "active"

    def test_staff_with_the_change_permission_can_end(self) -> None:
        self.client.force_login(pages.staff("change_session"))
        session = row()
        assert "end_sessions" in text_of(self.client.get(LIST))
        assert "mcp-end" in text_of(self.client.get(page_of(session)))
        self.client.post(LIST, confirmed(session))
        session.refresh_from_db()
        assert session.end_reason == "ended in admin by clerk"

    def test_staff_with_the_delete_permission_can_neither_delete_nor_end(self) -> None:
        self.client.force_login(pages.staff("view_session", "delete_session"))
        session = row()
        self.client.post(LIST, confirmed(session))
        self.client.post(LIST, end(session, action="delete_selected", post="yes"))
        session.refresh_from_db()
        assert session.status == "active"

    def test_staff_without_permissions_see_nothing(self) -> None:
        self.client.force_login(pages.staff())
        session = row()
        for address in (LIST, page_of(session), f"{LIST}?q=x", pages.PROCESSES):
            assert self.client.get(address).status_code == 403
        assert self.client.post(LIST, confirmed(session)).status_code == 403

    def test_people_who_are_not_staff_are_sent_to_the_login(self) -> None:
        session = row()
        for address in (LIST, page_of(session), pages.PROCESSES):
            assert self.client.get(address).status_code == 302


class LiveSessions(TestCase):
    async def test_a_session_ended_in_the_admin_is_not_found_by_its_very_next_request(self) -> None:
        chief = await User.objects.acreate(username="chief", is_staff=True, is_superuser=True)
        await self.async_client.aforce_login(chief)
        with inline():
            client, bystander = Client(everything, {}), Client(everything, {})
            session = await connected(client)
            await connected(bystander, name="bystander")
            assert (await client.call_tool("count"))["structuredContent"] == {"value": 1}
            await self.async_client.post(LIST, confirmed(session))
            with pytest.raises(ClientError) as refused:
                await client.call_tool("count")
            assert (refused.value.status, refused.value.code) == (404, -32001)
            client.restart()
            with pytest.raises(ClientError, match="404"):
                await client.call_tool("count")
            assert (await bystander.call_tool("count"))["structuredContent"] == {"value": 1}
