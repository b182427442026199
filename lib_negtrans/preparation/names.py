"""File names that every system can hold, told apart by every system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

LONGEST = 120  # bytes of UTF-8: with a folder before and an ending after it, below what Windows allows for a path
_ILLEGAL = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def safe_name(parts: Sequence[str]) -> str:
    """A file name, without ending, from the names of folders and a stem: joined by "-".

    Characters that Windows forbids or nobody sees become "_"; composed Unicode (NFC, as Linux and Windows write it); no
    leading dot or dash, no trailing dot or space, no device name; of a long one, the end with a digest of the whole.
    """
    whole = "-".join(filter(None, (_clean(part) for part in parts))) or "picture"
    encoded = whole.encode("utf-8")
    if len(encoded) > LONGEST:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        end = encoded[-(LONGEST - len(digest) - 1) :].decode("utf-8", "ignore")
        # an accent without its letter, cut off in between
        whole = f"{digest}-{_clean(end.lstrip(''.join(c for c in end if unicodedata.combining(c))))}"
    return f"{whole}_" if _RESERVED.fullmatch(whole) else whole


def _clean(part: str) -> str:
    text = unicodedata.normalize("NFC", part)
    return _ILLEGAL.sub("_", text).strip(" ").lstrip(".-").rstrip(". ")


class Names:
    """Gives out names that differ for file systems that ignore case and for those that normalise Unicode."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, parts: Sequence[str]) -> str:
        """`safe_name`, with a number after it if it is taken."""
        name = first = safe_name(parts)
        number = 1
        while (key := unicodedata.normalize("NFKC", name).casefold()) in self._taken:
            number += 1
            name = f"{first}-{number}"
        self._taken.add(key)
        return name
