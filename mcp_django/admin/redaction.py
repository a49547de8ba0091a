"""Secrets that people type, and stored JSON that people read: what looks like a secret does not come out."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from django.utils.translation import gettext, ngettext

from mcp_django.models import digest_of

REDACTED: Final = "[redacted]"
MAX_SHOWN: Final = 8_000

# secrets.token_urlsafe(32), as sessions are named, and, behind a prefix, bearer tokens.
RAW_ID: Final = re.compile(r"(?<![\w-])(?:mcpt_)?[\w-]{43}(?![\w-])", re.ASCII)
# As mcp_django.Handle.create() makes them.
HANDLE: Final = re.compile(r"(?<![\w-])[a-z][a-z0-9_]*-[A-Za-z0-9]{22,64}(?![\w-])", re.ASCII)
LONG_WORD: Final = re.compile(r"[\w-]{43,}", re.ASCII)
# Found anywhere in a key: hiding too much costs a look into the database, hiding too little costs a secret.
SECRET_KEY: Final = re.compile(
    r"token|secret|passw|passphrase|pwd|authori[sz]ation|bearer|cookie|credential|(api|access|private)[-_ ]?key"
    r"|session[-_ ]?id",
    re.IGNORECASE,
)


def digested(term: str) -> str:
    """The digest of the session id, handle or token in ``term``, or ``term`` itself if there is none in it."""
    found = RAW_ID.search(term) or HANDLE.search(term)
    return digest_of(found[0]) if found else term


def readable(text: str) -> str:
    """Stored JSON, pretty, without secrets, cut to a few kB. What is no JSON is shown as it is."""
    try:
        shown = json.dumps(_without_secrets(json.loads(text)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        if SECRET_KEY.search(text):
            return gettext("Not JSON, and not shown, as it may hold a secret.")
        shown = text
    # Before the cut: most of a secret is as good as all of it.
    return _visible(_cut(HANDLE.sub(_without_random, LONG_WORD.sub(_without_random, shown))))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: REDACTED if item and SECRET_KEY.search(key) else _without_secrets(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _without_random(word: re.Match[str]) -> str:
    """Long words in mixed case are session ids, handles and tokens; those in one case are slugs and hex digests."""
    return word[0] if word[0] in (word[0].lower(), word[0].upper()) else REDACTED


def _cut(text: str) -> str:
    more = len(text) - MAX_SHOWN
    if more <= 0:
        return text
    note = ngettext("… and %(count)d more character", "… and %(count)d more characters", more) % {"count": more}
    return f"{text[:MAX_SHOWN]}\n{note}"


def _visible(text: str) -> str:
    """Controls, bidirectional marks and lone surrogates as escapes: no text can dress up as another."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
