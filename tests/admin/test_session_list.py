"""The list of sessions in the admin: what it shows, how it is narrowed, and what it costs."""

from __future__ import annotations

import re
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mcp_django.admin.filters import RECENT
from mcp_django.models import Session, digest_of
from tests.admin import pages
from tests.admin.pages import LIST, XSS, listed, text_of
from tests.unit.records import row

RAW_ID = "Zm9vYmFyLWJhei1xdXV4LXNlc3Npb24taWQtMDAwMDE"


class SessionList(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())

    def test_a_line_says_who_and_what_and_how_it_stands(self) -> None:
        row(
            client_name="cursor",
            client_version="2.4",
            server="everything",
            restore_count=7,
            protocol_version="2025-06-18",
        )
        text = text_of(self.client.get(LIST))
        for expected in ("cursor 2.4", "everything", "2025-06-18", ">7<", "anonymous", "just now"):
            assert expected in text, expected

    def test_times_are_told_by_distance_with_the_moment_itself_as_title(self) -> None:
        seen = timezone.now() - timedelta(hours=3, minutes=5)
        row(created_at=seen - timedelta(days=2), last_seen_at=seen)
        text = text_of(self.client.get(LIST))
        assert "2\xa0days ago</time>" in text
        assert re.search(rf'<time datetime="{re.escape(seen.isoformat())}" title="[^"]+">3\xa0hours ago</time>', text)

    def test_the_owner_is_a_user_a_principal_or_anonymous(self) -> None:
        user = User.objects.create_user("librarian")
        row(owner_id=user.pk, principal=f"user:{user.pk}", server="a")
        row(principal="client:kiosk", server="b")
        row(server="c")
        page = self.client.get(f"{LIST}?o=3")
        shown = re.findall(r'field-belongs_to">([^<]*)<', text_of(page))
        assert shown == ["librarian", "client:kiosk", "anonymous"]

    def test_the_session_of_a_deleted_user_still_names_its_principal(self) -> None:
        user = User.objects.create_user("librarian")
        row(owner_id=user.pk, principal="user:4711")
        user.delete()
        assert "user:4711" in text_of(self.client.get(LIST))

    def test_the_status_stands_there_in_words_and_a_session_past_its_expiry_is_expired(self) -> None:
        now = timezone.now()
        row(server="a")
        row(server="b", expires_at=now - timedelta(seconds=1))
        row(server="c", status="terminated")
        row(server="d", status="expired")
        text = text_of(self.client.get(f"{LIST}?o=3"))
        badges = re.findall(r'mcp-badge-(\w+)">(\w+)<', text)
        assert badges == [(status, status) for status in ("active", "expired", "terminated", "expired")]

    def test_most_recently_seen_sessions_come_first(self) -> None:
        now = timezone.now()
        middle, last, first = (row(last_seen_at=now - timedelta(hours=hours)) for hours in (2, 3, 1))
        assert listed(self.client.get(LIST)) == [first, middle, last]

    def test_every_column_can_be_sorted_by(self) -> None:
        row()
        for column in range(1, 10):
            assert len(listed(self.client.get(f"{LIST}?o={column}"))) == 1
            assert "?o=-" in text_of(self.client.get(f"{LIST}?o={column}"))

    def test_markup_in_what_a_client_calls_itself_is_text(self) -> None:
        row(client_name=XSS, client_version=XSS[:50], server=XSS, principal=XSS)
        for address in (LIST, f"{LIST}?client_name={XSS}"):
            text = text_of(self.client.get(address))
            assert "<script>alert" not in text
            assert text.count("&lt;script&gt;alert(&#x27;x&#x27;)") >= 4

    def test_one_row_and_fifty_cost_the_same_number_of_queries(self) -> None:
        def add(count: int) -> None:
            for number in range(count):
                user = User.objects.create_user(f"reader{Session.objects.count()}")
                row(owner_id=user.pk, server=f"server{number % 3}", client_name=f"client{number % 3}")

        add(1)
        self.client.get(LIST)
        with CaptureQueriesContext(
            connection,
        ) as one:
            assert len(listed(self.client.get(LIST))) == 1
        add(49)
        with self.assertNumQueries(len(one)):
            assert len(listed(self.client.get(LIST))) == 50
        assert len(one) < 10

    def test_params_and_state_are_not_loaded_for_the_list(self) -> None:
        row()
        with CaptureQueriesContext(connection) as queries:
            self.client.get(LIST)
        assert not [query for query in queries.captured_queries if "_json" in query["sql"]]

    def test_the_pages_bring_no_inline_style_or_script_of_ours(self) -> None:
        row()
        text = text_of(self.client.get(LIST))
        assert "mcp_django/admin.css" in text
        body = text[text.index('id="content-main"') :]
        assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=|javascript:", body)

    def test_nothing_can_be_added(self) -> None:
        assert self.client.get(f"{LIST}add/").status_code == 403
        assert "addlink" not in text_of(self.client.get("/admin/mcp_django/"))


class Filters(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())
        past = timezone.now() - timedelta(seconds=1)
        self.active = row(server="library", client_name="cursor")
        self.overdue = row(server="library", client_name="goose", expires_at=past)
        self.expired = row(server="everything", protocol_version="2025-03-26", status="expired")
        self.ended = row(server="everything", client_name="", status="terminated")

    def found(self, query: str) -> set[Session]:
        return set(listed(self.client.get(f"{LIST}?{query}")))

    def offered(self, query: str) -> dict[str, list[str]]:
        """What each filter offers, by its title."""
        changes = self.client.get(f"{LIST}?{query}").context["cl"]
        return {spec.title: [choice["display"] for choice in spec.choices(changes)] for spec in changes.filter_specs}

    def test_status_asks_what_the_queryset_answers(self) -> None:
        assert self.found("status=active") == {self.active} == set(Session.objects.filter().active())
        assert self.found("status=ended") == {self.expired, self.ended}
        assert self.found("status=expired") == {self.overdue, self.expired}

    def test_an_unknown_status_narrows_nothing(self) -> None:
        assert len(self.found("status=nonsense")) == 4

    def test_server_client_and_protocol_version_narrow_the_list(self) -> None:
        assert self.found("server=library") == {self.active, self.overdue}
        assert self.found("client_name=goose") == {self.overdue}
        assert self.found("protocol_version=2025-03-26") == {self.expired}
        assert self.found("server=library&status=active") == {self.active}

    def test_filters_offer_the_values_that_recent_sessions_have(self) -> None:
        assert self.offered("")["server"] == ["All", "everything", "library"]
        assert self.offered("")["client"] == ["All", "cursor", "goose", "unit"]

    def test_counts_can_be_shown(self) -> None:
        text = text_of(self.client.get(f"{LIST}?_facets=True"))
        assert "library (2)" in text
        assert "ended (2)" in text

    def test_a_filter_with_one_value_is_not_shown(self) -> None:
        Session.objects.update(server="library")
        assert "server" not in self.offered("")

    def test_a_value_that_is_filtered_by_stays_on_offer_when_it_is_no_longer_recent(self) -> None:
        old = row(server="attic", last_seen_at=timezone.now() - timedelta(days=99))
        template = Session.objects.values().get(pk=self.active.pk)
        Session.objects.bulk_create(Session(**{**template, "id": digest_of(str(n))}) for n in range(RECENT))
        assert self.offered("")["server"] == ["All", "everything", "library"]
        assert self.found("server=attic") == {old}
        assert self.offered("server=attic")["server"] == ["All", "attic", "everything", "library"]


class Search(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())
        self.owner = User.objects.create_user("librarian")
        self.session = row(
            digest_of(RAW_ID), client_name="cursor-vscode", owner_id=self.owner.pk, principal="user:4711"
        )
        row(client_name="goose")

    def search(self, term: str, query: str = "") -> str:
        """Where a search leads to."""
        answer = self.client.post(LIST + query, {"q": term})
        assert answer.status_code == 302
        return answer["Location"]

    def test_client_owner_principal_and_the_beginning_of_a_digest_are_searched(self) -> None:
        for term in ("vscode", "librar", "user:4711", self.session.pk[:12], self.session.pk, self.session.pk.upper()):
            assert listed(self.client.get(self.search(term))) == [self.session], term
        assert listed(self.client.get(self.search("nobody"))) == []
        assert len(listed(self.client.get(self.search("")))) == 2

    def test_a_session_is_found_by_its_raw_id_which_goes_into_no_address_page_or_log(self) -> None:
        for pasted in (RAW_ID, f" {RAW_ID} ", f"Mcp-Session-Id: {RAW_ID}"):
            with CaptureQueriesContext(connection), self.assertLogs("django", level="DEBUG") as logs:
                address = self.search(pasted)
                page = self.client.get(address)
            assert listed(page) == [self.session]
            assert self.session.pk in address
            for text in (address, text_of(page), *logs.output):
                assert RAW_ID not in text

    def test_an_id_of_no_session_is_not_repeated_either(self) -> None:
        Session.objects.all().delete()
        page = self.client.get(self.search(RAW_ID))
        assert listed(page) == []
        assert RAW_ID not in text_of(page)

    def test_a_raw_id_in_an_address_is_replaced_by_its_digest(self) -> None:
        answer = self.client.get(f"{LIST}?q={RAW_ID}&status=active")
        assert answer.status_code == 302
        assert RAW_ID not in answer["Location"]
        assert listed(self.client.get(answer["Location"])) == [self.session]

    def test_a_search_keeps_the_filters_and_begins_at_the_first_page(self) -> None:
        address = self.search("cursor", "?server=library&p=3&q=goose")
        assert address == f"{LIST}?server=library&q=cursor"

    def test_the_search_form_posts(self) -> None:
        text = text_of(self.client.get(f"{LIST}?q=cursor"))
        form = re.search(r'<form id="changelist-search".*?</form>', text, re.DOTALL)
        assert form is not None
        assert 'method="post"' in form[0]
        assert "csrfmiddlewaretoken" in form[0]
        assert 'value="cursor"' in form[0]
        assert "1 result" in form[0]

    def test_a_search_needs_a_csrf_token(self) -> None:
        client = self.client_class(enforce_csrf_checks=True)
        client.force_login(User.objects.get(username="chief"))
        assert client.post(LIST, {"q": "cursor"}).status_code == 403
