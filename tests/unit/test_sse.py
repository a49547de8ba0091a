"""Event streams as bytes: ids that cannot be forged, and frames that say what they are meant to say."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

import pytest
from django.test import override_settings
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mcp_django import jsonrpc, sse
from mcp_django.models import digest_of
from mcp_django.sse import EventIds, Place, place_of

DIGEST = digest_of("a session")
LARGEST = 2**63 - 1

numbers = st.integers(0, LARGEST)
request_ids = st.lists(st.integers() | st.text(), max_size=4).map(tuple)
digests = st.text(min_size=1).map(lambda text: digest_of(f"session {text}"))
places = st.builds(Place, numbers, numbers, numbers, request_ids)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def id_of(place: Place, digest: str = DIGEST) -> str:
    return EventIds(digest, place.stream, place.request_ids).at(place.sequence, place.told)


an_id = id_of(Place(2**62 + 5, 7, 3, ("seven", 7)))


# Ids


@given(place=places, digest=digests)
@example(Place(0, 0), DIGEST)
@example(Place(LARGEST, LARGEST, LARGEST, tuple("abcd")), DIGEST)
@example(Place(1, 1, 0, ("\ud800", "\0", "ü", 2**80)), DIGEST)
def test_an_id_names_its_place(place: Place, digest: str) -> None:
    found = place_of(id_of(place, digest), digest)
    assert found is not None
    assert found[:3] == place[:3]
    short = len(json.dumps(place.request_ids, separators=(",", ":"))) <= sse.MAX_REQUEST_IDS
    assert found.request_ids == (place.request_ids if short else ())


@given(place=places)
def test_an_id_fits_into_a_header_and_a_line(place: Place) -> None:
    made = id_of(place)
    assert made.isascii()
    assert made.replace("-", "").replace("_", "").isalnum()
    assert len(made) <= sse.MAX_EVENT_ID


@given(one=places, other=places)
def test_two_places_have_two_ids(one: Place, other: Place) -> None:
    assume(one != other)
    long = [len(json.dumps(place.request_ids, separators=(",", ":"))) > sse.MAX_REQUEST_IDS for place in (one, other)]
    assume(one[:3] != other[:3] or not all(long))
    assert id_of(one) != id_of(other)


def test_the_ids_of_one_stream_are_made_for_every_place_in_it() -> None:
    ids = EventIds(DIGEST, 5, (1,))
    for sequence in (0, 1, 2, LARGEST):
        for told in (0, 1, LARGEST):
            assert place_of(ids.at(sequence, told), DIGEST) == Place(5, sequence, told, (1,))


@given(place=places, digest=digests)
def test_an_id_of_another_session_is_none(place: Place, digest: str) -> None:
    assert place_of(id_of(place, digest), DIGEST) is None


@given(index=st.integers(0, len(an_id) - 1), character=st.characters() | st.sampled_from("-_=+/ \n\r\0aA1"))
def test_an_id_with_any_character_changed_is_none(index: int, character: str) -> None:
    assume(an_id[index] != character)
    assert place_of(an_id[:index] + character + an_id[index + 1 :], DIGEST) is None


@pytest.mark.parametrize("character", [*map(chr, range(128)), "é", "\ud800", "１"])
def test_an_id_whose_last_character_is_changed_is_none(character: str) -> None:
    """Base64 decoders pass over its last bits."""
    assert (place_of(an_id[:-1] + character, DIGEST) is None) == (character != an_id[-1])


@pytest.mark.parametrize("length", range(len(an_id)))
def test_an_id_that_was_cut_off_is_none(length: int) -> None:
    assert place_of(an_id[:length], DIGEST) is None
    assert place_of(an_id[length + 1 :], DIGEST) is None


@given(index=st.integers(0, len(an_id)), more=st.text(min_size=1) | st.text("AQgw=-_ \n.", min_size=1))
def test_an_id_with_anything_put_in_is_none(index: int, more: str) -> None:
    assert place_of(an_id[:index] + more + an_id[index:], DIGEST) is None


@given(bit=st.integers(0, 8 * len(urlsafe_b64decode(an_id + "=" * (-len(an_id) % 4))) - 1))
def test_an_id_with_any_bit_changed_is_none(bit: int) -> None:
    sealed = bytearray(urlsafe_b64decode(an_id + "=" * (-len(an_id) % 4)))
    sealed[bit // 8] ^= 1 << bit % 8
    assert place_of(urlsafe_b64encode(bytes(sealed)).rstrip(b"=").decode(), DIGEST) is None


@given(text=st.text() | st.binary(max_size=100).map(lambda value: urlsafe_b64encode(value).rstrip(b"=").decode()))
@example("")
@example("=")
@example("0")
@example("A" * 10_000)
@example("\ud800" * 10)
def test_whatever_else_comes_as_an_id_is_none(text: str) -> None:
    assert place_of(text, DIGEST) is None


def test_an_id_made_of_parts_of_two_is_none() -> None:
    one, other = id_of(Place(1, 1)), id_of(Place(2, 2))
    assert len(one) == len(other)
    for index in range(1, len(one)):
        mixed = one[:index] + other[index:]
        assert mixed in (one, other) or place_of(mixed, DIGEST) is None


def test_an_id_lives_through_a_change_of_the_key_as_long_as_the_old_one_is_known() -> None:
    place = Place(5, 6, 7, (8,))
    with override_settings(SECRET_KEY="old"):
        made = id_of(place)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert place_of(made, DIGEST) == place
        assert id_of(place) != made
        assert place_of(id_of(place), DIGEST) == place
    for fallbacks in ([], ["older"]):
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=fallbacks):
            assert place_of(made, DIGEST) is None


# Frames


class Message(NamedTuple):
    """One event as a client reads it."""

    event: str
    data: str
    id: str | None
    retry: int | None


def read(stream: bytes) -> tuple[list[Message], list[str]]:
    """Messages and comments of an event stream (WHATWG HTML, section 9.2.6), as strictly as it can be read."""
    messages, comments = [], []
    fields: dict[str, Any] = {}
    data: list[str] = []
    # Only these three end a line there; str.splitlines() knows more.
    for line in stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        if not line:
            if fields or data:
                messages.append(
                    Message(fields.get("event", ""), "\n".join(data), fields.get("id"), fields.get("retry"))
                )
            fields, data = {}, []
        elif not name:
            comments.append(value.strip())
        elif name == "data":
            data.append(value.removeprefix(" "))
        else:
            assert name in ("event", "id", "retry")
            assert name not in fields
            fields[name] = int(value) if name == "retry" else value.removeprefix(" ")
    assert not fields, "the last frame is not ended"
    assert not data, "the last frame is not ended"
    return messages, comments


@given(values=st.lists(json_values, min_size=1, max_size=4), place=places)
@example([{"text": "a\nb\r\nc\rd\n\ndata: forged\nid: forged\n\n\u2028\u2029\x85\x0b\x0c\0\ud800"}], Place(1, 1))
def test_a_message_is_one_event_whatever_is_in_it(values: list[Any], place: Place) -> None:
    payloads = [jsonrpc.line(value) for value in values]
    made = id_of(place)
    messages, comments = read(b"".join(sse.event(payload, made) for payload in payloads))
    assert messages == [Message("message", payload, made, None) for payload in payloads]
    assert comments == []


@given(value=json_values)
def test_a_message_may_have_no_id(value: Any) -> None:
    payload = jsonrpc.line(value)
    frame = sse.event(payload, None)
    assert b"\nid:" not in frame
    assert read(frame)[0] == [Message("message", payload, None, None)]


@given(value=json_values)
def test_a_payload_is_one_line_of_ascii_that_says_the_same(value: Any) -> None:
    payload = jsonrpc.line(value)
    assert payload.isascii()
    assert not set(payload) & set(map(chr, range(32)))
    assert json.loads(payload) == value


def test_the_priming_event_has_an_id_a_wait_and_no_message() -> None:
    assert read(sse.priming(an_id, 3000)) == ([Message("", "", an_id, 3000)], [])


def test_a_farewell_says_when_to_come_back_and_moves_no_place() -> None:
    assert read(sse.farewell(3000)) == ([Message("", "", None, 3000)], [])
    assert b"data" not in sse.farewell(3000)


def test_a_keep_alive_is_a_comment() -> None:
    assert read(sse.KEEP_ALIVE) == ([], ["keep-alive"])


def test_frames_follow_each_other_without_running_together() -> None:
    stream = sse.priming(an_id, 1) + sse.KEEP_ALIVE + sse.event("{}", an_id) + sse.event("[]", None) + sse.farewell(2)
    messages, comments = read(stream)
    assert [message.data for message in messages] == ["", "{}", "[]", ""]
    assert comments == ["keep-alive"]
