"""JSON-RPC 2.0 messages: bytes to messages and back. Pure; no HTTP, no Django.

What is refused here never reaches a handler or the database: duplicate keys, deep nesting, numbers that are no
JSON numbers, lone surrogates, envelopes that are neither request, notification nor answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SESSION_NOT_FOUND: Final = -32001
RESOURCE_NOT_FOUND: Final = -32002  # the 2025 revisions, server/resources
HEADER_MISMATCH: Final = -32020
MISSING_REQUIRED_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800
REQUEST_TIMEOUT: Final = -32001  # as the SDKs use it, for a question that the client did not answer
CALL_LOST: Final = -32000
SERVER_BUSY: Final = -32003
RATE_LIMITED: Final = -32005

MAX_DEPTH: Final = 64

RequestId = str | int


class InvalidMessage(ValueError):
    """Bytes or a value that is not a JSON-RPC message. ``code`` is the JSON-RPC error code to answer with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class Request:
    """A request: it has an id and gets exactly one answer."""

    id: RequestId
    method: str
    params: dict[str, Any] | None


@dataclass(slots=True, frozen=True)
class Notification:
    """A notification: it has no id and gets no answer."""

    method: str
    params: dict[str, Any] | None


@dataclass(slots=True, frozen=True)
class Answer:
    """The client's answer to a request of the server."""

    id: RequestId | None
    result: Any
    error: dict[str, Any] | None


Message = Request | Notification | Answer


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        # Two readers of one message may pick different values for one key; a gateway in between is then blind.
        raise InvalidMessage(PARSE_ERROR, "Parse error: an object has the same key twice.")
    return made


def _constant(name: str) -> Any:
    raise InvalidMessage(PARSE_ERROR, f"Parse error: {name} is not a JSON number.")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidMessage(PARSE_ERROR, "Parse error: a number is too large.")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def decode(body: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        InvalidMessage: the bytes are not UTF-8, not JSON, or JSON that no peer should be sent on with
            (RFC 8259 sections 4, 8 and 9 leave each of these to the receiver).
    """
    try:
        value = _decoder.decode(body.decode())
    except InvalidMessage:
        raise
    except (ValueError, RecursionError) as error:
        # ValueError covers bad UTF-8, bad JSON, and integers over Python's digit limit.
        reason = "nested too deeply" if isinstance(error, RecursionError) else "the body is not a JSON text in UTF-8"
        raise InvalidMessage(PARSE_ERROR, f"Parse error: {reason}.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH:
        raise InvalidMessage(PARSE_ERROR, f"Parse error: nested more than {MAX_DEPTH} levels deep.")
    if b"\\u" in body and has_lone_surrogate(value):
        raise InvalidMessage(PARSE_ERROR, "Parse error: a string holds half of a surrogate pair.")
    return value


def depth(value: Any) -> int:
    """How many containers deep ``value`` is; a scalar is 0. Without recursion, so any depth can be asked."""
    deepest = 0
    stack = [(value, 0)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, dict):
            item = list(item.values())
        if isinstance(item, (list, tuple)):
            deepest = max(deepest, level + 1)
            stack.extend((child, level + 1) for child in item)
    return deepest


def has_string_keys_only(value: Any) -> bool:
    """Whether all keys in all objects of ``value`` are strings; Python's encoder would make strings of others."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            item = list(item.values())
        if isinstance(item, (list, tuple)):
            stack.extend(item)
    return True


def has_lone_surrogate(value: Any) -> bool:
    """Whether any string in ``value`` cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def encode(value: Any) -> bytes:
    """The JSON text of ``value`` in UTF-8; a lone surrogate from a handler leaves as an escape.

    Raises:
        TypeError: something in it is not JSON.
        ValueError: a number is not finite.
    """
    text = _encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _ascii_encoder.encode(value).encode("ascii")


_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_ascii_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def line(value: Any) -> str:
    """The JSON text of ``value`` as events keep and send it: ASCII, which every database takes, and no line break.

    Raises:
        TypeError: something in it is not JSON.
        ValueError: a number is not finite.
    """
    return _ascii_encoder.encode(value)


def canonical(value: Any) -> str:
    """The one JSON text for ``value`` that is stored: sorted keys, ASCII only.

    Raises:
        TypeError: something in it is not JSON.
        ValueError: a number is not finite, or it contains itself.
    """
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def notification(method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A notification as it goes on the wire."""
    made: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        made["params"] = params
    return made


def request(id: RequestId, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A request as it goes on the wire."""
    return {**notification(method, params), "id": id}


def message(value: Any) -> Message:
    """Read one parsed value as a message.

    Raises:
        InvalidMessage: it is none (JSON-RPC 2.0 sections 4 and 5; MCP allows no null ids and only object params).
    """
    if type(value) is not dict or value.get("jsonrpc") != "2.0":
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: expected an object with "jsonrpc": "2.0".')
    if "method" in value:
        return _request_or_notification(value)
    if "result" in value or "error" in value:
        return _answer(value)
    raise InvalidMessage(INVALID_REQUEST, 'Invalid request: expected "method", "result" or "error".')


def _request_or_notification(value: dict[str, Any]) -> Request | Notification:
    method, params = value["method"], value.get("params")
    if not isinstance(method, str):
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: "method" must be a string.')
    if params is not None and type(params) is not dict:
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: "params" must be an object.')
    if "id" not in value:
        return Notification(method, params)
    if not is_request_id(value["id"]):
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: "id" must be a string or an integer.')
    return Request(value["id"], method, params)


def _answer(value: dict[str, Any]) -> Answer:
    error = value.get("error")
    if ("result" in value) == ("error" in value) or ("error" in value and type(error) is not dict):
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: an answer has either "result" or an object "error".')
    if value.get("id") is not None and not is_request_id(value["id"]):
        raise InvalidMessage(INVALID_REQUEST, 'Invalid request: "id" must be a string or an integer.')
    return Answer(value.get("id"), value.get("result"), error)


def id_of(value: Any) -> RequestId | None:
    """The id to answer a broken message with, if it has a usable one."""
    found = value.get("id") if type(value) is dict else None
    return found if is_request_id(found) else None


def is_request_id(value: Any) -> bool:
    """A string or an integer; ``true`` is no id although Python takes it for 1."""
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def same_id(one: RequestId | None, other: RequestId | None) -> bool:
    """Whether two ids name one request: ``"7"`` and ``7`` do, as clients mix them."""
    return one is not None and other is not None and str(one) == str(other)


def result(id: RequestId, value: dict[str, Any]) -> dict[str, Any]:
    """The response that carries ``value`` as the result of request ``id``."""
    return {"jsonrpc": "2.0", "id": id, "result": value}


def error(id: RequestId | None, code: int, text: str, data: Any = None) -> dict[str, Any]:
    """The response that carries an error; ``id`` is None when the request's own could not be read."""
    body: dict[str, Any] = {"code": code, "message": text}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": id, "error": body}
