"""What people type and read in the admin: ids become digests, stored JSON comes out without secrets."""

from __future__ import annotations

import json
import secrets
import time

import pytest

from mcp_django.admin.redaction import MAX_SHOWN, REDACTED, digested, readable
from mcp_django.models import digest_of

RAW_ID = "Zm9vYmFyLWJhei1xdXV4LXNlc3Npb24taWQtMDAwMDE"


@pytest.mark.parametrize("term", [RAW_ID, f"  {RAW_ID}\n", f"Mcp-Session-Id: {RAW_ID}", f'"{RAW_ID}"'])
def test_a_pasted_session_id_becomes_its_digest(term: str) -> None:
    assert digested(term) == digest_of(RAW_ID)


def test_every_id_that_sessions_are_given_is_recognised() -> None:
    for raw_id in (secrets.token_urlsafe(32) for _ in range(200)):
        assert digested(raw_id) == digest_of(raw_id)


@pytest.mark.parametrize(
    "term", ["", "cursor-vscode", digest_of(RAW_ID), digest_of(RAW_ID)[:12], RAW_ID[:-1], "é" * 43]
)
def test_other_search_terms_stay_as_they_are(term: str) -> None:
    assert digested(term) == term


@pytest.mark.parametrize(
    "key",
    [
        *("token", "accessToken", "client_secret", "password", "passphrase", "bearer", "credentials", "Set-Cookie"),
        *("Authorization", "authorisation", "api_key", "apiKey", "X-Api-Key", "privateKey", "sessionId", "session-id"),
    ],
)
def test_a_value_under_a_key_that_looks_secret_is_left_out(key: str) -> None:
    shown = json.loads(readable(json.dumps({"list": [{key: "s3cr3t-v4lue"}], key: {"nested": ["s3cr3t-v4lue"]}})))
    assert shown == {"list": [{key: REDACTED}], key: REDACTED}


def test_ordinary_keys_and_empty_values_are_shown() -> None:
    value = {"author": "A. Alder", "shelf": ["9799900000500"], "password": "", "token": None, "keys": 3}
    assert json.loads(readable(json.dumps(value))) == value


def test_what_looks_like_a_session_id_is_left_out_wherever_it_stands() -> None:
    shown = readable(json.dumps({"me": RAW_ID, RAW_ID: 1, "uri": f"session://{RAW_ID}/x", "note": f"\n{RAW_ID}"}))
    assert RAW_ID not in shown
    assert RAW_ID[1:] not in shown
    assert shown.count(REDACTED) == 4


def test_slugs_hex_digests_rules_and_numbers_are_no_session_ids() -> None:
    slug = "the-collected-letters-of-a-lighthouse-keeper-volume-2"
    value = {"slug": slug, "sha256": digest_of("x"), "rule": "-" * 60, "number": 10**50}
    assert json.loads(readable(json.dumps(value))) == value


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    shown = readable(json.dumps(["x" * MAX_SHOWN]))
    assert len(shown) < MAX_SHOWN + 100
    assert shown.endswith("… and 8 more characters")


def test_a_secret_at_the_cut_does_not_come_out_in_part() -> None:
    for shift in range(len(RAW_ID) + 2):
        shown = readable(json.dumps("x " * ((MAX_SHOWN - len(RAW_ID)) // 2) + " " * shift + RAW_ID))
        assert RAW_ID[:8] not in shown


def test_text_that_is_no_json_is_shown_as_it_is() -> None:
    assert readable("{'half': ") == "{'half': "
    assert readable("") == ""


def test_text_that_is_no_json_is_not_shown_if_it_may_hold_a_secret() -> None:
    assert "s3cr3t" not in readable('{"api_key": "s3cr3t-v4lue')


def test_json_nested_beyond_measure_is_shown_as_text() -> None:
    assert readable("[" * 100_000).startswith("[[[[")


@pytest.mark.parametrize(
    ("character", "escape"),
    [("\\ud800", "\\ud800"), ("\\u202e", "\\u202e"), ("\\u200b", "\\u200b"), ("\\u0085", "\\x85")],
)
def test_characters_that_nobody_sees_are_shown_as_escapes(character: str, escape: str) -> None:
    shown = readable(f'"a{character}b"')
    assert shown == f'"a{escape}b"'
    shown.encode("utf-8")


@pytest.mark.parametrize("text", ["a" * 64 * 1024, "-" * 64 * 1024, "aB" * 32 * 1024, '"' * 64 * 1024])
def test_a_hostile_text_of_the_size_of_a_state_takes_milliseconds_not_minutes(text: str) -> None:
    started = time.process_time()
    readable(text)
    assert time.process_time() - started < 5
