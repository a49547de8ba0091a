"""What the README and the docs say holds: names, defaults, links, code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.dispatch import Signal

import mcp_django
from mcp_django import conf, context, exceptions, handlers, handles, signals, state
from scripts.conformance import LEGS

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
TOP_PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES = [*TOP_PAGES, *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOCUMENTED_SETTING = re.compile(r"^### MCP_DJANGO_(\w+)\n\nDefault: `(.+)`$", re.MULTILINE)
CHECK_ID = re.compile(r"mcp_django\.[EW]\d{3}")
DOTTED_NAME = re.compile(r"\bmcp_django(?:\.[A-Za-z_]\w*)+")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_blocks(page: Path, language: str, section: str = "") -> list[str]:
    """The code of a page, or of one of its sections."""
    text = text_of(page)
    if section:
        text = re.split("^## ", text.partition(f"\n## {section}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [code for found, code in FENCE.findall(text) if found == language]


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def code_of_docs() -> str:
    """All that stands as code in the docs, in spans or blocks."""
    found: list[str] = []
    for page in DOCS.glob("*.md"):
        found += [code for _language, code in FENCE.findall(text_of(page))]
        found += CODE_SPAN.findall(prose_of(page))
    return "\n".join(found)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = (heading.strip().lower().replace("`", "") for heading in HEADING.findall(prose_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def is_documented(name: str, code: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", code) is not None


def public_names(owner: type) -> list[str]:
    return [name for name in vars(owner) if not name.startswith("_")]


def resolve(dotted: str) -> Any:
    """The module or object with this name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


def test_the_settings_page_has_every_setting_with_its_default() -> None:
    found = DOCUMENTED_SETTING.findall(text_of(DOCS / "settings.md"))
    documented = {name: eval(default, {"timedelta": timedelta}) for name, default in found}
    assert len(documented) == len(found), "a setting has two sections"
    assert documented == {name: setting.default for name, setting in conf.SETTINGS.items()}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_no_page_names_a_setting_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bMCP_DJANGO_([A-Z_]+[A-Z])", text_of(page)))
    assert named <= set(conf.SETTINGS)


def test_the_checks_page_has_every_check() -> None:
    code = "".join(text_of(module) for module in (ROOT / "mcp_django").rglob("*.py"))
    documented = re.findall(r"^\| (mcp_django\.[EW]\d{3}) \|", text_of(DOCS / "checks.md"), re.MULTILINE)
    assert sorted(documented) == sorted(set(CHECK_ID.findall(code)))


@pytest.mark.parametrize("name", mcp_django.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert is_documented(name, code_of_docs())


def test_every_signal_is_in_the_table() -> None:
    section = text_of(DOCS / "handlers.md").partition("\n## Signals\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(name for name, value in vars(signals).items() if isinstance(value, Signal))


def test_every_exception_is_documented() -> None:
    classes = inspect.getmembers(exceptions, inspect.isclass)
    names = [name for name, kind in classes if kind.__module__ == exceptions.__name__]
    assert names
    assert [name for name in names if not is_documented(name, code_of_docs())] == []


@pytest.mark.parametrize("owner", [state.State, handlers.Handler, handles.Handle], ids=lambda owner: owner.__name__)
def test_every_method_is_documented(owner: type) -> None:
    assert public_names(owner)
    assert [name for name in public_names(owner) if not is_documented(name, code_of_docs())] == []


def test_every_field_of_the_marker_is_documented() -> None:
    names = [field.name for field in dataclasses.fields(handlers.RestoreMarker)]
    assert [name for name in names if not is_documented(name, code_of_docs())] == []


def test_what_the_context_adds_is_documented() -> None:
    names = {name for name, value in vars(context.Context).items() if isinstance(value, property)}
    assert {"user", "state"} <= names
    # The running call is for this package's own use.
    assert [name for name in sorted(names - {"call"}) if not is_documented(f"ctx.{name}", code_of_docs())] == []


def test_the_conformance_page_has_every_run_of_the_suite() -> None:
    rows = re.findall(r"^\| (0\.\S+) \| (.+?) \| (.+?) \| (.+?) \|", text_of(DOCS / "conformance.md"), re.MULTILINE)
    whole = [f"{leg.scenarios} of {leg.scenarios}" for leg in LEGS]
    assert rows == [(leg.suite, leg.title, count, count) for leg, count in zip(LEGS, whole, strict=True)]


@pages
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:tests|scripts|demo_project)/[\w./-]*)`", text_of(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pages
def test_every_dotted_name_can_be_imported(page: Path) -> None:
    for name in set(DOTTED_NAME.findall(text_of(page))):
        if not CHECK_ID.fullmatch(name):
            assert resolve(name) is not None, name


@pages
def test_every_python_block_compiles(page: Path) -> None:
    for code in code_blocks(page, "python"):
        compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files that a page links to or shows, and where in them."""
    for target in LINK.findall(prose_of(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    missing = [path.name for path, _anchor in relative_links(page) if not path.exists()]
    assert missing == []


@pages
def test_every_link_into_a_page_leads_to_a_heading(page: Path) -> None:
    found = [(path, anchor) for path, anchor in relative_links(page) if anchor and path.exists()]
    assert [f"{path.name}#{anchor}" for path, anchor in found if anchor not in anchors_of(path)] == []


def test_the_index_names_every_page() -> None:
    linked = {path.resolve() for path, _anchor in relative_links(DOCS / "index.md")}
    assert set(DOCS.glob("*.md")) - {DOCS / "index.md"} <= linked


# The quickstart


def files_of(section: str) -> dict[str, str]:
    """The code of a section of the README by file; each block says in its first line where it belongs."""
    files = {}
    for code in code_blocks(ROOT / "README.md", "python", section):
        comment, _, rest = code.partition("\n")
        files[re.split("[,:]", comment.removeprefix("# "))[0]] = rest
    return files


def is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


def test_the_quickstart_has_less_than_thirty_lines_of_code() -> None:
    files = files_of("Quickstart")
    del files["client.py"]
    assert sum(is_code(line) for code in files.values() for line in code.splitlines()) < 30


def test_the_quickstart_works_and_so_do_the_tests_of_the_testing_page(tmp_path: Path) -> None:
    def run(*command: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
        environment |= {"PYTHONPATH": str(ROOT), "DJANGO_SUPERUSER_PASSWORD": "a-good-password"}
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("-m", "django", "startproject", "project", ".")
    run("manage.py", "startapp", "library")
    files = files_of("Quickstart")
    for name in ("settings", "urls"):
        with (tmp_path / f"project/{name}.py").open("a") as file:
            file.write(files[f"project/{name}.py"])
    entry = tmp_path / "project/asgi.py"
    theirs, ours = "from django.core.asgi import get_asgi_application\n", files["project/asgi.py"]
    assert theirs in text_of(entry)
    entry.write_text(text_of(entry).replace(theirs, ours))
    for name in ("library/models.py", "library/mcp.py"):
        (tmp_path / name).write_text(files[name])
    tests = code_blocks(DOCS / "testing.md", "python")
    (tmp_path / "library/tests.py").write_text("\n\n".join(tests[:2]))

    run("manage.py", "makemigrations", "library")
    run("manage.py", "migrate")
    run("manage.py", "check", "--fail-level", "WARNING")
    run("manage.py", "test")
    run("-c", "import project.asgi")

    for name, code in files_of("Who may come in").items():
        with (tmp_path / name).open("a") as file:
            file.write(f"\n\n{code}")
    (tmp_path / "library/tests.py").write_text(tests[2])
    run("manage.py", "migrate")
    run("manage.py", "check", "--fail-level", "WARNING")
    run("manage.py", "createsuperuser", "--username", "ann", "--email", "ann@example.com", "--no-input")
    run("manage.py", "mcptoken", "create", "ann")
    run("manage.py", "test")


def test_the_documented_settings_for_oauth_are_those_of_the_demo_which_are_tested() -> None:
    (shown,) = (code for code in code_blocks(DOCS / "authentication.md", "python") if "OAUTH2_PROVIDER = {" in code)
    named: dict[str, Any] = {}
    exec(shown, {"INSTALLED_APPS": []}, named)
    assert named["OAUTH2_PROVIDER"] == import_module("demo_project.oauth.settings").OAUTH2_PROVIDER
