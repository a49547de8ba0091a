"""The list of server processes in the admin."""

from __future__ import annotations

import re
from datetime import timedelta

from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mcp_django.models import Process
from tests.admin import pages
from tests.admin.pages import PROCESSES, XSS, text_of


def add(host: str = "web-1", pid: int = 1, *, seen: timedelta = timedelta(0)) -> Process:
    return Process.objects.create(host=host, pid=pid, version="0.1.0", seen_at=timezone.now() - seen)


class ProcessList(TestCase):
    def setUp(self) -> None:
        self.client.force_login(pages.admin())

    def test_a_line_says_where_a_process_runs_and_whether_it_lives(self) -> None:
        add("web-1", 12345)
        add("web-2", 54321, seen=Process.LEASE * 2)
        text = text_of(self.client.get(PROCESSES))
        for expected in ("web-1", "12345", "web-2", "54321", "0.1.0"):
            assert expected in text, expected
        assert re.findall(r"mcp-badge-\w+\">(\w+)<", text) == ["alive", "gone"]

    def test_the_lease_is_judged_by_the_clock_of_the_database(self) -> None:
        add(seen=Process.LEASE * 2)
        Process.objects.get().renew()
        assert ">alive<" in text_of(self.client.get(PROCESSES))

    def test_one_row_and_fifty_cost_the_same_number_of_queries(self) -> None:
        add()
        self.client.get(PROCESSES)
        with CaptureQueriesContext(connection) as one:
            self.client.get(PROCESSES)
        for pid in range(2, 51):
            add(pid=pid)
        with self.assertNumQueries(len(one)):
            assert text_of(self.client.get(PROCESSES)).count(">alive<") == 50

    def test_nothing_can_be_added_changed_or_deleted(self) -> None:
        process = add(XSS)
        address = f"{PROCESSES}{process.pk}/change/"
        text = text_of(self.client.get(address))
        assert ">alive<" in text
        assert "<script>alert" not in text
        assert 'name="_save"' not in text
        assert self.client.post(address, {"host": "other", "_save": "Save"}).status_code == 403
        assert self.client.get(f"{PROCESSES}add/").status_code == 403
        assert self.client.post(f"{PROCESSES}{process.pk}/delete/", {"post": "yes"}).status_code == 403
        assert Process.objects.get(pk=process.pk).host == XSS

    def test_staff_with_the_view_permission_see_it(self) -> None:
        self.client.force_login(pages.staff("view_process"))
        assert self.client.get(PROCESSES).status_code == 200
        assert self.client.get("/admin/").status_code == 200
