"""The endpoints of the demo, each with one of everything that a client can do there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Values = Mapping[str, Any]


class Call(NamedTuple):
    """A tool's call and what of its result is known beforehand."""

    tool: str
    arguments: Values
    result: Values


@dataclass(frozen=True)
class Endpoint:
    """What there is behind a URL.

    Args:
        offers: some of what is listed, by the kind of list.
        calls: tools that answer at once. steps: what `progressing` reports.
        question: how that begins which `asking` asks; `content` answers it. undoing: takes back what came of it.
        error: what a tool that fails says.
        listening: what to listen to. telling: the calls that make it heard.
    """

    path: str
    offers: Mapping[str, set[str]]
    calls: Sequence[Call]
    progressing: Call
    steps: Sequence[int]
    asking: Call
    question: str
    content: Values
    failing: Call
    error: str
    uri: str
    text: str
    prompt: str
    prompt_arguments: Mapping[str, str]
    prompt_text: str
    completing: tuple[str, str]
    completions: Sequence[str]
    listening: Values
    telling: Sequence[Call]
    heard: Sequence[str]
    undoing: Sequence[Call] = field(default=())


EVERYTHING = Endpoint(
    path="/everything/mcp",
    offers={
        "tools": {"add", "ask_name", "orm_roundtrip", "slow_progress", "toggle_tool"},
        "resources": {"test://static-text", "test://static-binary"},
        "templates": {"test://template/{id}/data"},
        "prompts": {"test_simple_prompt", "test_prompt_with_arguments"},
    },
    calls=[Call("add", {"a": 2, "b": 3}, {"result": 5}), Call("orm_roundtrip", {}, {"rows": 0})],
    progressing=Call("slow_progress", {"steps": 4, "seconds": 0.2}, {"steps": 4}),
    steps=[1, 2, 3, 4],
    asking=Call("ask_name", {}, {"action": "accept", "name": "Ada"}),
    question="What is your name?",
    content={"name": "Ada"},
    failing=Call("test_error_handling", {}, {}),
    error="This tool intentionally returns an error for testing",
    uri="test://static-text",
    text="This is the content of the static text resource.",
    prompt="test_prompt_with_arguments",
    prompt_arguments={"arg1": "one", "arg2": "two"},
    prompt_text="Prompt with arguments: arg1='one', arg2='two'",
    completing=("arg1", "test"),
    completions=["test-one", "test-two"],
    listening={"tools": True, "uris": []},
    telling=[Call("toggle_tool", {}, {})],
    heard=["notifications/tools/list_changed"],
)

# Of what the demo is filled with: two books with more than one copy, and two cards with nothing out.
BORROWED, TOLD_OF = "9799900000012", "9799900000029"
CARD, OTHER_CARD = "LIB-0002", "LIB-0003"

LIBRARY = Endpoint(
    path="/mcp",
    offers={
        "tools": {"search_books", "borrow", "return_book", "import_catalogue"},
        "resources": {"lib://catalogue"},
        "templates": {"lib://books/{isbn}", "lib://authors/{author}"},
        "prompts": {"book_report", "recommend"},
    },
    calls=[
        Call("search_books", {"query": BORROWED}, {"total": 1, "advice": ""}),
        Call("my_loans", {"card": CARD}, {"card": CARD, "loans": []}),
    ],
    progressing=Call("import_catalogue", {"rows": 300}, {"imported": 0, "already_there": 300}),
    steps=[250, 300],
    asking=Call("borrow", {"isbn": BORROWED, "card": CARD}, {"isbn": BORROWED, "card": CARD, "overdue": False}),
    question="Borrow Dunmere: A History of the Hollow Compass",
    content={"borrow": True},
    failing=Call("return_book", {"isbn": TOLD_OF, "card": CARD}, {}),
    error=f"{CARD} does not have",
    uri="lib://catalogue",
    text="lib://books/{isbn}",
    prompt="recommend",
    prompt_arguments={"author": "D. Beech", "title": "The Mirror"},
    prompt_text="I liked 'The Mirror' by D. Beech.",
    completing=("author", "D. Bee"),
    completions=["D. Beech"],
    listening={"tools": False, "uris": [f"lib://books/{TOLD_OF}"]},
    telling=[
        Call("borrow", {"isbn": TOLD_OF, "card": OTHER_CARD}, {}),
        Call("return_book", {"isbn": TOLD_OF, "card": OTHER_CARD}, {}),
    ],
    heard=["notifications/resources/updated", f"lib://books/{TOLD_OF}"],
    undoing=[Call("return_book", {"isbn": BORROWED, "card": CARD}, {"isbn": BORROWED})],
)
