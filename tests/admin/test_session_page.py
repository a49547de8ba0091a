"""One session in the admin: everything to read, nothing to change, no secrets."""

from __future__ import annotations

import json
import re
import uuid
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from demo_project.everything.server import everything
from mcp_django.models import Process, Session
from mcp_django.processes import this_process
from mcp_django.testing import Client, inline
from tests.admin import pages
from tests.admin.pages import LIST, XSS, connected, page_of, text_of
from tests.unit.records import row


class SessionPage(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())

    def test_params_and_state_are_shown_as_pretty_json(self) -> None:
        session = row(initialize_params_json='{"clientInfo":{"name":"cursor"}}', subscriptions_json='["lib://books/1"]')
        session.replace_state('{"shelf":["9799900000500"]}', version=0)
        text = text_of(self.client.get(page_of(session)))
        assert "{\n  &quot;clientInfo&quot;: {\n    &quot;name&quot;: &quot;cursor&quot;\n  }\n}" in text
        assert "{\n  &quot;shelf&quot;: [\n    &quot;9799900000500&quot;\n  ]\n}" in text
        assert "lib://books/1" in text

    def test_the_status_says_why_the_session_ended(self) -> None:
        session = row()
        session.end("ended by the client")
        assert "terminated</span> ended by the client" in text_of(self.client.get(page_of(session)))

    def test_the_owner_links_to_the_user(self) -> None:
        user = User.objects.create_user("librarian")
        text = text_of(self.client.get(page_of(row(owner_id=user.pk, principal="user:4711"))))
        assert f'<a href="/admin/auth/user/{user.pk}/change/">librarian</a>' in text
        assert "user:4711" in text

    def test_a_session_that_nobody_owns_is_anonymous(self) -> None:
        assert "anonymous" in text_of(self.client.get(page_of(row())))

    def test_markup_is_text_wherever_it_comes_from(self) -> None:
        session = row(
            **dict.fromkeys(("client_name", "server", "principal"), XSS),
            client_version=XSS[:50],
            log_level=XSS[:20],
            initialize_params_json=json.dumps({XSS: XSS}),
            subscriptions_json=json.dumps([XSS]),
            end_reason=XSS,
            tools_fingerprint=XSS[:64],
        )
        Session.objects.filter(pk=session.pk).update(state_json=f"broken {XSS}")
        for address in (page_of(session), page_of(session).replace("change", "history")):
            text = text_of(self.client.get(address))
            assert "<script>alert" not in text
            assert "&lt;script&gt;alert" in text

    def test_secrets_in_params_and_state_are_left_out(self) -> None:
        params = {
            "capabilities": {"experimental": {"x": {"apiKey": "s3cr3t-1"}}},
            "_meta": {"authorization": "s3cr3t-2"},
        }
        session = row(initialize_params_json=json.dumps(params))
        session.replace_state(json.dumps({"github_token": "s3cr3t-3", "shelf": ["s3ri0us"]}), version=0)
        text = text_of(self.client.get(page_of(session)))
        assert "s3cr3t" not in text
        assert text.count("[redacted]") == 3
        assert "s3ri0us" in text

    def test_what_is_no_json_or_no_object_is_still_shown(self) -> None:
        for broken in ("{'cut off", "", "[1]", "null", "12", '"\\ud800"', "[" * 5000, '{"a": NaN}', "\u202e\u0085"):
            session = row(initialize_params_json=broken, subscriptions_json=broken)
            Session.objects.filter(pk=session.pk).update(state_json=broken)
            assert text_of(self.client.get(page_of(session))).count('class="mcp-json"') == 3, broken

    def test_a_large_state_is_cut(self) -> None:
        session = row()
        session.replace_state(json.dumps({"pages": ["word " * 10] * 1000}), version=0)
        page = self.client.get(page_of(session))
        assert "more characters" in text_of(page)
        assert len(page.content) < 50_000

    def test_the_last_process_is_named_with_its_lease(self) -> None:
        alive = Process.objects.create(host="web-1", pid=12345, version="1")
        gone = Process.objects.create(host="web-2", pid=54321, version="1", seen_at=timezone.now() - timedelta(hours=1))
        for process, words in ((alive, "web-1, process 12345"), (gone, "web-2, process 54321")):
            text = text_of(self.client.get(page_of(row(last_process=process.pk))))
            state = "alive" if process is alive else "gone"
            assert re.search(rf"{words} <span [^>]*>{state}</span>", text)

    def test_a_process_that_is_not_on_record_is_unknown(self) -> None:
        assert "unknown" in text_of(self.client.get(page_of(row(last_process=uuid.uuid4()))))

    def test_a_session_may_have_no_last_process(self) -> None:
        text = text_of(self.client.get(page_of(row(last_process=None))))
        assert re.search(r'field-last_process_shown.*?class="readonly">-<', text, re.DOTALL)

    def test_nothing_can_be_changed_or_deleted(self) -> None:
        session = row(server="library")
        text = text_of(self.client.get(page_of(session)))
        assert 'name="_save"' not in text
        assert "deletelink" not in text
        assert self.client.post(page_of(session), {"server": "other", "_save": "Save"}).status_code == 403
        assert self.client.post(page_of(session).replace("change", "delete"), {"post": "yes"}).status_code == 403
        assert self.client.post(LIST, pages.end(session, action="delete_selected", post="yes")).status_code in (
            200,
            302,
        )
        assert Session.objects.get(pk=session.pk).server == "library"

    def test_the_page_takes_a_constant_number_of_queries(self) -> None:
        process = Process.objects.create(pk=this_process(), host="web-1", pid=1, version="1")
        user = User.objects.create_user("librarian")
        first = row(owner_id=user.pk, last_process=process.pk)
        self.client.get(page_of(first))
        with CaptureQueriesContext(connection) as one:
            self.client.get(page_of(first))
        others = [row(owner_id=user.pk, last_process=process.pk) for _ in range(50)]
        with self.assertNumQueries(len(one)):
            self.client.get(page_of(others[-1]))
        assert len(one) < 8

    def test_the_page_brings_no_inline_style_or_script_of_ours(self) -> None:
        text = text_of(self.client.get(page_of(row())))
        assert "mcp_django/admin.css" in text
        body = text[text.index('id="content-start"') : text.index("</main>")]
        assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=|javascript:", body)


class SessionsOfRealClients(TestCase):
    async def test_a_hostile_client_is_shown_as_text_and_its_session_id_nowhere(self) -> None:
        await self.async_client.aforce_login(
            await User.objects.acreate(username="chief", is_staff=True, is_superuser=True)
        )
        with inline():
            client = Client(everything, {})
            session = await connected(client, name=XSS, version=XSS, title=XSS)
            assert client.session_id is not None
            await client.call_tool("count")
        state = json.dumps({"me": client.session_id, "link": f"session://{client.session_id}"})
        await Session.objects.filter(pk=session.pk).aupdate(state_json=state, subscriptions_json=state)
        found = await self.async_client.post(LIST, {"q": client.session_id})
        pages_seen = [
            await self.async_client.get(found["Location"]),
            await self.async_client.get(LIST),
            await self.async_client.get(page_of(session)),
            await self.async_client.post(LIST, pages.end(session)),
            await self.async_client.get(page_of(session).replace("change", "history")),
            await self.async_client.post(LIST, pages.confirmed(session), follow=True),
        ]
        for page in pages_seen:
            text = text_of(page)
            assert client.session_id not in text
            assert "<script>alert" not in text
            assert session.short_id in text
