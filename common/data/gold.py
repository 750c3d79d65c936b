"""Gold labels of a source in the words of the task; nothing unknown slips through."""

from collections import Counter
from collections.abc import Mapping

from common.config.base import suggestion
from common.data.rows import Row
from common.errors import ConfigError, InputError
from common.task import TaskDefinition

_NAMED_AT_MOST = 8


class GoldLabels:
    """
    Reads the source's labels: through the label map where one is given, else by the task's
    names and aliases. Strangers are collected, so that one message can name them all.
    """

    def __init__(self, task: TaskDefinition, label_map: Mapping[str, str] | None):
        self._task = task
        self._labels = task.label_set
        self._map = label_map
        self._known: dict[str, str | None] = {}
        self._strangers: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        if label_map is not None:
            self._check_map(label_map)

    def read(self, row: Row) -> str | None:
        """The row's label, or None where it has none (or one that `check` will complain about)."""
        if row.label is None:
            return None
        if row.label not in self._known:
            self._known[row.label] = self._translate(row.label)
        label = self._known[row.label]
        if label is None:
            self._strangers[row.label] += 1
            self._first.setdefault(row.label, row.place)
        return label

    def check(self) -> None:
        """Raises InputError naming every label that was read and is not known."""
        if not self._strangers:
            return
        named = [
            f"'{word}' ({count} rows, first at {self._first[word]})"
            for word, count in self._strangers.most_common(_NAMED_AT_MOST)
        ]
        more = len(self._strangers) - len(named)
        listed = ", ".join(named) + (f" and {more} more" if more > 0 else "")
        if self._map is not None:
            raise InputError(f"data.label_map does not cover {listed}; add them to the map.")
        raise InputError(
            f"gold label {listed} is not among the labels of task '{self._task.name}' "
            f"({', '.join(self._labels.names)}){self._hint()}; correct it, or translate the "
            "source's labels with data.label_map."
        )

    def _translate(self, word: str) -> str | None:
        return self._labels.parse(word) if self._map is None else self._map.get(word)

    def _hint(self) -> str:
        return suggestion(next(iter(self._strangers)).lower(), self._labels.names)

    def _check_map(self, label_map: Mapping[str, str]) -> None:
        for code, label in label_map.items():
            if label not in self._labels:
                raise ConfigError(
                    f"data.label_map.{code}: '{label}' is not a label of task "
                    f"'{self._task.name}'{suggestion(label, self._labels.names)}; "
                    f"it has {', '.join(self._labels.names)}."
                )
