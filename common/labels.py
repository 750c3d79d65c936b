"""A task's label set, and how a text becomes a label. Nothing is guessed."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property

_WRAPPING = " \t\r\n\"'`*_.,;:!<>[](){}"
_LEAD = re.compile(r"^(?:the\s+)?(?:label|answer|sentiment|class|prediction)\s*(?:is|:|=)\s*", re.I)


class LabelSet:
    """
    The labels of a task in their fixed order, with other names each one goes by.

    `names[i]` is label i; probability vectors and confusion matrices use this order.
    """

    def __init__(self, names: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None):
        self.names = tuple(names)
        self._aliases = {name: tuple((aliases or {}).get(name, ())) for name in self.names}

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """Position of a label. Raises ValueError for a name outside the set."""
        return self.names.index(name)

    @cached_property
    def _readings(self) -> dict[str, str]:
        pairs = [(name, name) for name in self.names]
        pairs += [(alias, name) for name, others in self._aliases.items() for alias in others]
        return {_plain(text): name for text, name in pairs}

    def parse(self, text: str) -> str | None:
        """
        The label that `text` states, or None.

        Reads "Label: **Positive**." and {"positive"} alike. A text that holds more than a
        label ("not positive", "positive or neutral") is None: an answer nobody can read is wrong.
        """
        first = text.strip().splitlines()[0] if text.strip() else ""
        bare = _plain(first)
        return self._readings.get(bare) or self._readings.get(_plain(_LEAD.sub("", bare)))

    def mentioned(self, text: str) -> set[str]:
        """Every label whose name or alias stands in `text` as a word."""
        words = set(re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()))
        return {name for reading, name in self._readings.items() if reading in words}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip(_WRAPPING).lower()
