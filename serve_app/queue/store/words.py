"""Words of prompts, as they are indexed and searched: PostgreSQL's ``tsvector`` and ``tsquery``.

They are divided here and not by PostgreSQL's parser, which would read parts of a prompt as hosts or
files. So requests and searches are divided alike, whatever the server's settings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

FIELDS = "prompt", "text", "lyrics", "tags"
"""Input fields whose words are found."""

MAX_CHARACTERS = 8000
MAX_WORDS = 300  # different ones of a request
MAX_WORD_CHARACTERS = 64
MAX_SEARCHED = 10
MIN_PREFIX = 3
"""Characters from which a searched word also finds the words that begin with it. Shorter ones begin
too many."""

# Chinese, Japanese and Korean are written without spaces: each character counts as a word.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])[^\W_])+")


def words_of(text: str) -> list[str]:
    """Different words of a text, in order, without regard to case and width."""
    plain = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold()
    words = (word[:MAX_WORD_CHARACTERS] for word in _WORD.findall(plain))
    return list(dict.fromkeys(words))[:MAX_WORDS]


def words_column(tenant: str, input: Mapping[str, Any]) -> str | None:
    """Value of the column ``words``, as text; None if the input has no words."""
    texts = (input.get(name) for name in FIELDS)
    words = words_of(" ".join(text for text in texts if isinstance(text, str)))
    return " ".join(map(_quote, (_owner(tenant), *words))) if words else None


def words_query(tenant: str, text: str) -> str | None:
    """Query for a tenant's requests with all words of ``text``; None if it has none."""
    words = words_of(text)[:MAX_SEARCHED]
    if not words:
        return None
    terms = (_quote(word) + (":*" if len(word) >= MIN_PREFIX else "") for word in words)
    return " & ".join((_quote(_owner(tenant)), *terms))


def _owner(tenant: str) -> str:
    return f"@{tenant}"  # no word of a text has the character


def _quote(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
