"""Rounds: how a handler asks a client that takes no requests (multi round-trip requests, 2026-07-28).

What a handler asks there ends its run. The client is told what is wanted, gets it, and sends the same request again,
with the answers; the handler runs anew from its beginning, and where it asked before it finds the answer. What was
answered in earlier rounds travels with the client, sealed, so that any process can go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from django.conf import settings
from django.utils.crypto import salted_hmac
from mcp.server.context import ServerRequestContext
from mcp.server.request_state import AESGCMRequestStateCodec, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
    InputResponses,
    ListRootsResult,
)
from pydantic import TypeAdapter, ValidationError

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings

if TYPE_CHECKING:
    from mcp_django.calls import Call

KEY: Final = "question-"
VERSION: Final = 1

_requests: TypeAdapter[InputRequests] = TypeAdapter(InputRequests)
_responses: TypeAdapter[InputResponses] = TypeAdapter(InputResponses)
_results: Final[dict[str, TypeAdapter[Any]]] = {
    "elicitation/create": TypeAdapter(ElicitResult),
    "sampling/createMessage": TypeAdapter(CreateMessageResult | CreateMessageResultWithTools),
    "roots/list": TypeAdapter(ListRootsResult),
}


class InputRequired(BaseException):
    """Ends the run of a handler that has asked. No ``Exception``, so that handlers which catch those let it pass."""


class Round:
    """One run of a handler: what the client has answered so far, and what it is asked now.

    Questions are told apart by their order and recognised by their text: an answer counts only for the question that
    was asked. Beside those that a handler asks by its context, it may be driven by resolvers, or return an
    ``InputRequiredResult`` of its own making. That has a state and answers of its own, which are kept for it and handed
    to it again in every later round.

    Args:
        state: what :meth:`outcome` sealed in the round before; None in the first.
        responses: the client's answers, as on the wire.
    """

    def __init__(self, state: str | None, responses: Mapping[str, Any]) -> None:
        kept = _kept(state)
        self._answers: dict[int, list[Any]] = {int(place): answer for place, answer in kept["answers"].items()}
        self._asked: dict[str, str] = kept["asked"]
        self._given = {key: value for key, value in responses.items() if key in self._asked}
        self.own_state: str | None = kept["own_state"]
        """The state of the handler's own making."""
        self.own_responses: dict[str, Any] | None = kept["own_responses"] if self._asked else dict(responses) or None
        """The answers to questions of the handler's own making, as on the wire."""
        self._pending: dict[str, dict[str, Any]] = {}
        self._count = 0

    def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The client's answer to the next question.

        Raises:
            InputRequired: it is still to be asked.
            MCPError: -32602, what it sent is no answer to this.
        """
        place, digest = self._count, _digest(method, params)
        self._count += 1
        key = f"{KEY}{place + 1}"
        if place in self._answers and self._answers[place][0] == digest:
            return dict(self._answers[place][1])
        if key in self._given and self._asked[key] == digest:
            answer = _checked(method, key, self._given[key])
            self._answers[place] = [digest, answer]
            return answer
        self._answers.pop(place, None)
        self._pending[key] = {"method": method, "params": dict(params)}
        raise InputRequired

    def outcome(self, result: Any) -> Any:
        """What the client is sent after a run: ``result``, or what is wanted of the client."""
        if self._pending:
            asked = {key: _digest(request["method"], request["params"]) for key, request in self._pending.items()}
            state = self._state(self.own_state, self.own_responses, asked)
            return InputRequiredResult(input_requests=_requests.validate_python(self._pending), request_state=state)
        if isinstance(result, InputRequiredResult) and (result.request_state is not None or self._answers):
            return result.model_copy(update={"request_state": self._state(result.request_state, None, {})})
        return result

    @property
    def has_asked(self) -> bool:
        """Whether there is a question for the client."""
        return bool(self._pending)

    def _state(self, own_state: str | None, own_responses: dict[str, Any] | None, asked: dict[str, str]) -> str:
        kept = {
            "v": VERSION,
            "own_state": own_state,
            "own_responses": own_responses,
            "answers": self._answers,
            "asked": asked,
        }
        return json.dumps(kept, separators=(",", ":"))


def _kept(state: str | None) -> dict[str, Any]:
    """What a state holds; nothing if it is of another version of this code, so that all is asked again."""
    kept = json.loads(state) if state is not None else {}
    if kept.get("v") != VERSION:
        return {"own_state": None, "own_responses": None, "answers": {}, "asked": {}}
    return dict(kept)


def _digest(method: str, params: Mapping[str, Any]) -> str:
    return hashlib.blake2b(jsonrpc.canonical([method, dict(params)]).encode(), digest_size=16).hexdigest()


def _checked(method: str, key: str, answer: Any) -> dict[str, Any]:
    try:
        _results[method].validate_python(answer, by_name=False)
    except (KeyError, ValidationError):
        raise MCPError(jsonrpc.INVALID_PARAMS, f"inputResponses.{key} is no answer to {method}.") from None
    return dict(answer)


def requests_on_wire(requests: InputRequests) -> dict[str, Any]:
    """Questions as they are on the wire."""
    return dict(_requests.dump_python(requests, mode="json", by_alias=True, exclude_none=True))


def wire_of(responses: InputResponses | None) -> dict[str, Any]:
    """Answers as they are on the wire."""
    return dict(_responses.dump_python(responses or {}, mode="json", by_alias=True, exclude_none=True))


def typed(responses: dict[str, Any] | None) -> InputResponses | None:
    """Answers as handlers get them."""
    return _responses.validate_python(responses) if responses is not None else None


class Codec:
    """Seals states with the project's secret key, and opens those that its former ones sealed too."""

    def seal(self, payload: bytes) -> str:
        return _codec(_secrets()).seal(payload)

    def unseal(self, token: str) -> bytes:
        return _codec(_secrets()).unseal(token)


def _secrets() -> tuple[str, ...]:
    return tuple(dict.fromkeys((str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS))))


@lru_cache(maxsize=4)
def _codec(secrets: tuple[str, ...]) -> AESGCMRequestStateCodec:
    salt = "mcp_django.rounds"
    return AESGCMRequestStateCodec(
        [salted_hmac(salt, "request state", secret=secret, algorithm="sha256").digest() for secret in secrets]
    )


def security(server: str) -> RequestStateSecurity:
    """How states are sealed: for one server, one caller and one request, and not for ever."""
    return RequestStateSecurity(
        codec=Codec(), ttl=mcp_settings.REQUEST_STATE_TTL.total_seconds(), bind_principal=principal_of, audience=server
    )


def principal_of(ctx: ServerRequestContext[Any, Any]) -> str:
    """Whose state it is. Anonymous callers share one name, which no other caller has."""
    return cast("Call", ctx.request).principal.key
