"""Takes secrets and the server's own folders out of what is told to clients."""

from collections.abc import Mapping, Sequence
from typing import Any

_LEAST = 6  # a shorter "secret" would blank out ordinary words


class Secrecy:
    """
    Replaces each secret by *** and each folder by its short name.

    Folders are replaced longest first, so that one inside another keeps its own name.
    """

    def __init__(self, secrets: Sequence[str | None], folders: Mapping[str, str]):
        self._replacements = [(s, "***") for s in secrets if s and len(s) >= _LEAST]
        self._replacements += sorted(
            ((k, v) for k, v in folders.items() if len(k) > 1), key=lambda pair: -len(pair[0])
        )

    def scrub(self, text: str) -> str:
        """A text without them."""
        for hidden, shown in self._replacements:
            text = text.replace(hidden, shown)
        return text

    def scrubbed(self, value: Any) -> Any:
        """A JSON value without them, keys included."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, Mapping):
            return {self.scrub(str(key)): self.scrubbed(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrubbed(item) for item in value]
        return value
