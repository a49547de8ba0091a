"""One conversation in either era: what a handler returns, what it asks on the way, and what it says while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from tests.protocol.client import Client, Session
from tests.protocol.client import with_progress as with_progress_of_session
from tests.protocol.stateless import ASKABLE, MODERN, Stateless, with_progress

Answers = Mapping[str, Any]
"""What is answered in one round, by the method of the question."""

REVISIONS: Final = ("2025-11-25", "2025-06-18", MODERN)
STAMPS: Final = ("_meta", "resultType", "ttlMs", "cacheScope")


class Caller(Protocol):
    """A client that answers what it is asked."""

    asked: list[list[tuple[str, Any]]]
    """The questions of each round: method and params."""

    async def request(self, method: str, params: Mapping[str, Any] | None = None, *rounds: Answers) -> Any:
        """The result of a request, which must ask exactly what is answered."""

    async def heard(self, tool: str, token: Any) -> list[Any]:
        """All messages of a tool's stream, for a client that wants to hear of its progress."""


class SessionCaller:
    """The caller of the handshake era."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.asked: list[list[tuple[str, Any]]] = []

    async def request(self, method: str, params: Mapping[str, Any] | None = None, *rounds: Answers) -> Any:
        exchange = self.session.begin(self.session.client.message(method, dict(params or {})))
        if not rounds:
            return (await exchange.response()).result
        stream = await exchange.stream()
        for answers in rounds:
            questions = [await stream.question() for _ in answers]
            self.asked.append([question_of(question) for question in questions])
            for question in questions:
                assert (await self.session.answer(question, answers[question["method"]])).status == 202
        *between, last = await stream.rest()
        assert [message for message in between if "id" in message] == []
        return last["result"]

    async def heard(self, tool: str, token: Any) -> list[Any]:
        message = with_progress_of_session(self.session.tool(tool), token)
        return await (await self.session.begin(message).stream()).rest()


class StatelessCaller:
    """The caller of 2026-07-28."""

    def __init__(self, client: Stateless) -> None:
        self.client = client
        self.asked: list[list[tuple[str, Any]]] = []

    async def request(self, method: str, params: Mapping[str, Any] | None = None, *rounds: Answers) -> Any:
        message = self.client.message(method, params)
        response = await self.client.post(message)
        for answers in rounds:
            asked = response.result["inputRequests"]
            assert response.result["resultType"] == "input_required"
            self.asked.append([question_of(question) for question in asked.values()])
            given = {key: answers[question["method"]] for key, question in asked.items()}
            assert len(given) == len(answers)
            response = await self.client.again(message, response.result, given)
        assert response.result["resultType"] == "complete", response.result
        return response.result

    async def heard(self, tool: str, token: Any) -> list[Any]:
        return await (await self.client.stream(with_progress(self.client.tool(tool), token))).rest()


async def caller(client: Client, revision: str, capabilities: Mapping[str, Any] = ASKABLE) -> Caller:
    """A client of a revision that declares these capabilities."""
    if revision == MODERN:
        return StatelessCaller(Stateless(client, capabilities))
    return SessionCaller(await client.open(revision, capabilities=capabilities))


def question_of(message: Mapping[str, Any]) -> tuple[str, Any]:
    """A question's method and params, without what 2026-07-28 has no place for: title and text of a form."""
    params = dict(message.get("params") or {})
    if schema := params.get("requestedSchema"):
        params["requestedSchema"] = {key: schema[key] for key in schema if key not in ("title", "description")}
    return message["method"], params


def plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what the eras add to each."""
    return {key: value for key, value in result.items() if key not in STAMPS}
