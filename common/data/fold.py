"""When two texts count as the same text: equal after folding."""

import re
import unicodedata
from hashlib import blake2b

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def fold(text: str) -> str:
    """
    NFKC, lower case, letters and digits only: spacing, case, quotes and dashes do not tell
    two sentences apart. A text without any letter or digit folds to itself, in lower case, so
    that two unlike strings of symbols do not become one.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    return _NEITHER_LETTER_NOR_DIGIT.sub("", plain) or plain.strip()


def fold_key(text: str) -> int:
    """
    64 bits of the folded text's digest, for a million texts in eight megabytes.

    Two different texts among n share a key with probability about n² / 2⁶⁵: 3e-8 at a million.
    """
    folded = fold(text).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(folded, digest_size=8).digest(), "big")
