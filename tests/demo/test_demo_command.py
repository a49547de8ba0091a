"""`manage.py demo` prepares everything, as often as it is called, and says what is where."""

from __future__ import annotations

import json
import os
import socket
from io import StringIO
from unittest import mock

from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from demo_project.library import clients
from demo_project.library.models import Book, Loan, Member


def prepare(**environment: str) -> str:
    """Run the command without the server, with `DEMO_ADMIN_PASSWORD` only where it is given."""
    out = StringIO()
    others = {name: value for name, value in os.environ.items() if name != "DEMO_ADMIN_PASSWORD"}
    with mock.patch.dict(os.environ, others | environment, clear=True):
        call_command("demo", no_server=True, port=8123, stdout=out)
    return out.getvalue()


class Preparation(TestCase):
    def test_it_fills_the_library_and_makes_an_admin_who_has_a_card(self) -> None:
        output = prepare()
        admin = get_user_model().objects.get(username="admin", is_superuser=True)
        assert admin.check_password("admin")
        assert Member.objects.get(user=admin).card == "LIB-0001"
        assert f"{Book.objects.count()} books" in output
        assert "login: admin / admin" in output

    def test_the_second_time_leaves_a_password_alone_and_does_not_guess_it(self) -> None:
        prepare()
        admin = get_user_model().objects.get(username="admin")
        admin.set_password("changed")
        admin.save()
        assert "admin / (as you set it)" in prepare()
        admin.refresh_from_db()
        assert admin.check_password("changed")

    def test_a_password_from_the_environment_is_set_and_not_printed(self) -> None:
        prepare()
        assert "0pen-sesame" not in prepare(DEMO_ADMIN_PASSWORD="0pen-sesame")
        assert get_user_model().objects.get(username="admin").check_password("0pen-sesame")

    def test_it_prints_the_endpoints_and_configurations_to_paste(self) -> None:
        output = prepare()
        assert "http://127.0.0.1:8123/mcp " in output
        assert "http://127.0.0.1:8123/everything/mcp " in output
        assert "claude mcp add --transport http library http://127.0.0.1:8123/mcp" in output
        for configuration in clients.configurations("http://127.0.0.1:8123")[1:]:
            (servers,) = json.loads(configuration.text).values()
            assert servers["library"] == {"type": "http", "url": "http://127.0.0.1:8123/mcp"}

    def test_it_says_how_to_come_in_to_the_members_server(self) -> None:
        output = prepare()
        assert "http://127.0.0.1:8123/members/mcp " in output
        assert "manage.py mcptoken create admin" in output
        assert 'members http://127.0.0.1:8123/members/mcp --header "Authorization: Bearer TOKEN"' in output
        for configuration in clients.configurations("http://127.0.0.1:8123")[1:]:
            (servers,) = json.loads(configuration.text).values()
            assert servers["members"]["headers"] == {"Authorization": "Bearer TOKEN"}


class Port(TestCase):
    def test_a_taken_port_is_refused_with_another_one_before_anything_is_done(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with self.assertRaisesMessage(CommandError, f"Port {port} on 127.0.0.1 is in use"):
                call_command("demo", port=port)
        assert not get_user_model().objects.filter(username="admin").exists()

    def test_a_number_that_is_no_port_is_refused(self) -> None:
        with self.assertRaisesMessage(CommandError, "from 1 to 65535"):
            call_command("demo", port=70_000)


class Pages(TestCase):
    def test_the_home_page_names_the_endpoints_under_the_host_it_was_asked_for(self) -> None:
        response = self.client.get("/", headers={"host": "localhost:8123"})
        self.assertContains(response, "http://localhost:8123/everything/mcp")
        self.assertContains(response, "http://localhost:8123/members/mcp")
        self.assertContains(response, "manage.py mcptoken create admin")
        self.assertContains(response, "claude mcp add --transport http library http://localhost:8123/mcp")
        self.assertNotContains(response, "<script")

    def test_the_admin_lists_many_rows_with_as_many_queries_as_few(self) -> None:
        prepare()
        self.client.force_login(get_user_model().objects.get(username="admin"))
        many = {model: self.queries_of_list(model) for model in ("book", "member", "loan")}
        Loan.objects.exclude(pk__in=[Loan.objects.earliest("due").pk, Loan.objects.latest("due").pk]).delete()
        Book.objects.filter(loans=None).delete()
        Member.objects.filter(loans=None).delete()
        assert many == {model: self.queries_of_list(model) for model in ("book", "member", "loan")}

    def queries_of_list(self, model: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert self.client.get(f"/admin/library/{model}/").status_code == 200
        return len(captured)
