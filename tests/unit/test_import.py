"""Importing the package: its names, and what importing it does not cost."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from typing import Any

import pytest
from django.conf import settings

import mcp_django

PUBLIC = {
    "AuthenticationFailed",
    "Authenticator",
    "Context",
    "Handle",
    "Handler",
    "MCPServer",
    "Principal",
    "RestoreMarker",
    "mcp",
    "prompt",
    "resource",
    "resource_updates",
    "tool",
}


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def of_the_sdk(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in ("mcp", "mcp_types")}


def test_importing_the_package_loads_nothing_but_itself() -> None:
    modules = modules_after("import mcp_django")
    assert not of_the_sdk(modules)
    assert "django" not in modules


def test_registering_tools_does_not_load_the_sdk() -> None:
    """Half a second and 37 MB that no management command and no task worker should pay."""
    modules = modules_after(
        "import django\n"
        "django.setup()\n"
        "import mcp_django\n"
        "from mcp_django import Handle, Handler, MCPServer, mcp, prompt, resource, tool\n"
        "@mcp.tool()\n"
        "def search(query: str) -> list[str]: ...\n"
        "class Shelf(Handle): ...\n"
        "@mcp.tool()\n"
        "def clear(shelf: Shelf) -> None: ...\n"
        "@mcp.register\n"
        "class Shelves(Handler):\n"
        "    @tool()\n"
        "    def put(self, isbn: str) -> None: ...\n"
        "MCPServer('another')\n"
        "from mcp_django.models import Session\n"
        "Session.objects.all().query\n"
    )
    assert "mcp_django.server" in modules
    assert not of_the_sdk(modules)


def test_the_public_names_are_those_that_are_documented() -> None:
    assert set(mcp_django.__all__) == PUBLIC
    assert sorted(mcp_django.__all__) == mcp_django.__all__


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_had(name: str) -> None:
    value: Any = getattr(mcp_django, name)
    assert not isinstance(value, types.ModuleType)
    assert getattr(mcp_django, name) is value
    assert name in dir(mcp_django)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'mcp_django' has no attribute 'toool'"):
        mcp_django.toool  # noqa: B018
    with pytest.raises(ImportError):
        exec("from mcp_django import toool")


def test_a_star_import_gives_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from mcp_django import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC
