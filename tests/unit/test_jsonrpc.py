"""Bytes to messages and back: whatever comes in, a value comes out or one clear refusal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_django import jsonrpc
from mcp_django.jsonrpc import INVALID_REQUEST, MAX_DEPTH, PARSE_ERROR, InvalidMessage

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)
ids = st.integers() | st.text()
# Every byte that JSON gives a meaning to, so that random bodies get far into the parser.
almost_json = st.text(alphabet='[]{}",:\\/ \n0123456789+-.eEtruefalsnNaIity\ud7ff\x00é', max_size=60).map(str.encode)
envelope_members = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2, None]),
        "id": ids | st.none() | st.booleans() | st.floats(allow_nan=False) | st.lists(ids),
        "method": st.text() | st.sampled_from(["tools/call", "initialize"]) | scalars,
        "params": st.dictionaries(st.text(max_size=8), values, max_size=4) | values,
        "result": values,
        "error": st.dictionaries(st.text(max_size=8), values, max_size=4) | values,
    },
)


def refused(body: bytes) -> str:
    """What the sender of a body that is no JSON text is told."""
    with pytest.raises(InvalidMessage) as caught:
        jsonrpc.decode(body)
    assert caught.value.code == PARSE_ERROR
    return str(caught.value)


def outcome(read: Callable[[Any], Any], given: Any) -> tuple[Any, InvalidMessage | None]:
    """What was read, or the refusal. Any other exception is a failure."""
    try:
        return read(given), None
    except InvalidMessage as refusal:
        return None, refusal


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: in Python 1, 1.0 and True are one."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


class TestDecode:
    @given(values)
    def test_returns_what_was_encoded(self, value: Any) -> None:
        assert same(jsonrpc.decode(jsonrpc.encode(value)), value)

    @given(values)
    def test_reads_ascii_escapes_as_the_characters(self, value: Any) -> None:
        assert same(jsonrpc.decode(json.dumps(value, ensure_ascii=True).encode()), value)

    @settings(max_examples=500)
    @given(st.binary() | almost_json)
    @example(b"")
    @example(b" \n")
    @example(b"\xff\xfe\x00")
    @example(b'{"a":1} {"a":1}')
    @example(b'{"a":1,}')
    @example(b"[1 2]")
    @example(b"'single'")
    @example(b"// comment\n1")
    @example(b'"tab\tinside"')
    @example(b"01")
    def test_gives_a_value_that_can_be_sent_and_stored_or_one_clear_refusal(self, body: bytes) -> None:
        value, refusal = outcome(jsonrpc.decode, body)
        if refusal is None:
            jsonrpc.encode(value).decode("utf-8")
            assert same(json.loads(jsonrpc.canonical(value)), value)
        else:
            assert refusal.code == PARSE_ERROR
            assert str(refusal).startswith("Parse error: ")

    @given(values, st.integers(0, 200), st.binary(min_size=1, max_size=3))
    def test_survives_a_message_that_was_damaged_on_its_way(self, value: Any, place: int, damage: bytes) -> None:
        body = jsonrpc.encode(value)
        cut = place % (len(body) + 1)
        _value, refusal = outcome(jsonrpc.decode, body[:cut] + damage + body[cut + 1 :])
        assert refusal is None or refusal.code == PARSE_ERROR

    @pytest.mark.parametrize(
        "body",
        [b'{"a":1,"a":1}', b'[{"b":{"a":1,"c":2,"a":3}}]', b'{"a":1,"\\u0061":2}', b'{"":1,"":2}'],
        ids=["top", "nested", "escaped", "empty key"],
    )
    def test_refuses_an_object_with_the_same_key_twice(self, body: bytes) -> None:
        assert "same key twice" in refused(body)

    @pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b'{"a":-Infinity}'])
    def test_refuses_what_python_takes_for_a_number_and_json_does_not(self, body: bytes) -> None:
        assert "is not a JSON number" in refused(body)

    @pytest.mark.parametrize("body", [b"1e999", b"-1e999", b"[1E+400]", b"1e" + b"9" * 400, b"9" * 400 + b".5"])
    def test_refuses_numbers_that_would_become_infinite(self, body: bytes) -> None:
        assert "too large" in refused(body)

    def test_takes_integers_up_to_the_digits_that_python_converts(self) -> None:
        digits = sys.get_int_max_str_digits()
        assert jsonrpc.decode(b"-" + b"9" * digits) == -(10**digits) + 1
        refused(b"9" * (digits + 1))
        refused(b"9" * 100_000)

    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
    def test_takes_nesting_up_to_the_limit_and_says_the_limit_beyond(self, opening: bytes, closing: bytes) -> None:
        allowed = opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH
        assert jsonrpc.depth(jsonrpc.decode(allowed)) == MAX_DEPTH
        assert str(MAX_DEPTH) in refused(opening + allowed + closing)

    @pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 200_000 + b"]" * 200_000])
    def test_refuses_nesting_that_no_parser_survives(self, body: bytes) -> None:
        refused(body)

    def test_takes_many_containers_side_by_side(self) -> None:
        assert len(jsonrpc.decode(b"[" + b",".join([b"[]"] * 10_000) + b"]")) == 10_000

    @pytest.mark.parametrize(
        "body",
        [b'"\\ud800"', b'"\\udc00\\ud800"', b'{"a":["x\\uDFFFy"]}', b'{"\\ud83d":1}', b'"\xed\xa0\x80"'],
        ids=["high", "swapped", "nested", "in a key", "as UTF-8"],
    )
    def test_refuses_half_of_a_surrogate_pair(self, body: bytes) -> None:
        refused(body)

    def test_takes_a_whole_surrogate_pair(self) -> None:
        assert jsonrpc.decode(b'"\\ud83d\\ude00"') == "😀"

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
    def test_refuses_encodings_other_than_plain_utf_8(self, encoding: str) -> None:
        assert "UTF-8" in refused('{"jsonrpc":"2.0","method":"é"}'.encode(encoding))

    def test_takes_nul_and_other_control_characters_when_they_are_escaped(self) -> None:
        assert jsonrpc.decode(b'"\\u0000\\u001f"') == "\x00\x1f"


class TestEncode:
    def test_writes_a_lone_surrogate_of_a_handler_as_an_escape(self) -> None:
        body = jsonrpc.encode({"text": "é\ud800"})
        assert body.isascii()
        assert json.loads(body) == {"text": "é\ud800"}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
    def test_refuses_numbers_that_json_has_not(self, value: Any) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            jsonrpc.encode(value)

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}])
    def test_refuses_what_is_not_json(self, value: Any) -> None:
        with pytest.raises(TypeError):
            jsonrpc.encode(value)


class TestCanonical:
    @given(st.dictionaries(st.text(max_size=8), values, max_size=4))
    def test_does_not_depend_on_the_order_of_keys(self, value: dict[str, Any]) -> None:
        turned = dict(reversed(value.items()))
        assert jsonrpc.canonical(turned) == jsonrpc.canonical(value)

    @given(values)
    def test_fits_into_every_text_column(self, value: Any) -> None:
        text = jsonrpc.canonical(value)
        assert text.isascii()
        assert "\x00" not in text
        assert "\n" not in text
        assert same(json.loads(text), value)

    def test_refuses_a_value_that_contains_itself(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(ValueError, match="Circular"):
            jsonrpc.canonical(value)


class TestDepth:
    @pytest.mark.parametrize(
        ("value", "expected"), [(1, 0), ("[[", 0), ([], 1), ({}, 1), ([1, [2]], 2), ({"a": [{"b": []}]}, 4)]
    )
    def test_counts_containers(self, value: Any, expected: int) -> None:
        assert jsonrpc.depth(value) == expected

    def test_is_known_of_values_deeper_than_the_stack(self) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        assert jsonrpc.depth(value) == 100_001


class TestMessage:
    @settings(max_examples=300)
    @given(values | envelope_members)
    @example({"jsonrpc": "2.0", "id": 1, "error": None})
    def test_is_a_message_or_a_clear_refusal_whatever_was_parsed(self, value: Any) -> None:
        message, refusal = outcome(jsonrpc.message, value)
        assert (refusal is None) == well_formed(value)
        if refusal is not None:
            assert refusal.code == INVALID_REQUEST
            assert str(refusal).startswith("Invalid request: ")
        elif "method" not in value:
            assert isinstance(message, jsonrpc.Answer)
        else:
            assert isinstance(message, jsonrpc.Request if "id" in value else jsonrpc.Notification)

    @given(ids, st.text(), st.none() | st.dictionaries(st.text(max_size=8), values, max_size=4))
    def test_a_request_keeps_its_id_method_and_params(self, id: Any, method: str, params: Any) -> None:
        message = jsonrpc.message({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        assert message == jsonrpc.Request(id, method, params)

    def test_a_notification_has_no_id(self) -> None:
        message = jsonrpc.message({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert message == jsonrpc.Notification("notifications/initialized", None)

    def test_an_answer_carries_a_result_or_an_error(self) -> None:
        ok = jsonrpc.message({"jsonrpc": "2.0", "id": "1", "result": None})
        assert ok == jsonrpc.Answer("1", None, None)
        failed = jsonrpc.message({"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no"}})
        assert failed == jsonrpc.Answer(None, None, {"code": -1, "message": "no"})

    @pytest.mark.parametrize(
        "value",
        [
            None,
            [],
            "x",
            {},
            {"jsonrpc": "2.0"},
            {"jsonrpc": 2.0, "method": "ping"},
            {"jsonrpc": "1.0", "id": 1, "method": "ping"},
            {"id": 1, "method": "ping"},
            {"jsonrpc": "2.0", "id": None, "method": "ping"},
            {"jsonrpc": "2.0", "id": True, "method": "ping"},
            {"jsonrpc": "2.0", "id": 1.0, "method": "ping"},
            {"jsonrpc": "2.0", "id": [1], "method": "ping"},
            {"jsonrpc": "2.0", "id": 1, "method": None},
            {"jsonrpc": "2.0", "id": 1, "method": 5},
            {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
            {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}},
            {"jsonrpc": "2.0", "id": 1, "error": "broken"},
            {"jsonrpc": "2.0", "id": 1, "error": None},
            {"jsonrpc": "2.0", "id": 1.5, "result": {}},
        ],
    )
    def test_is_refused_when_the_envelope_is_wrong(self, value: Any) -> None:
        with pytest.raises(InvalidMessage) as caught:
            jsonrpc.message(value)
        assert caught.value.code == INVALID_REQUEST


def well_formed(value: Any) -> bool:
    """JSON-RPC 2.0 and MCP's narrowing of it, written down a second time."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return False
    id = value.get("id")
    id_right = isinstance(id, (str, int)) and not isinstance(id, bool)
    if "method" in value:
        params = value.get("params")
        params_right = params is None or isinstance(params, dict)
        return isinstance(value["method"], str) and params_right and (id_right or "id" not in value)
    if "result" in value:
        return "error" not in value and (id_right or id is None)
    return isinstance(value.get("error"), dict) and (id_right or id is None)


class TestSameId:
    @given(st.integers())
    def test_takes_a_number_and_its_digits_for_one(self, id: int) -> None:
        assert jsonrpc.same_id(id, str(id))
        assert jsonrpc.same_id(str(id), id)

    @given(ids, ids)
    def test_is_symmetric_and_tells_ids_apart(self, one: Any, other: Any) -> None:
        assert jsonrpc.same_id(one, other) == jsonrpc.same_id(other, one) == (str(one) == str(other))

    def test_never_takes_no_id_for_an_id(self) -> None:
        assert not jsonrpc.same_id(None, None)
        assert not jsonrpc.same_id(None, "None")
        assert not jsonrpc.same_id("", None)


def test_an_error_without_data_has_none_on_the_wire() -> None:
    assert jsonrpc.error(7, -1, "no") == {"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "no"}}
    assert jsonrpc.error(None, -1, "no", {"a": 1})["error"]["data"] == {"a": 1}
    assert jsonrpc.error(None, -1, "no")["id"] is None


def test_a_result_carries_the_id_as_it_came() -> None:
    assert jsonrpc.result("7", {}) == {"jsonrpc": "2.0", "id": "7", "result": {}}
