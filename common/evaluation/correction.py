"""Corrected p values over a family of comparisons, each test for itself."""

from collections.abc import Mapping, Sequence

import numpy as np

from common.evaluation.comparison import Difference, PairComparison, ScoreTest, TestResult
from common.evaluation.pairs import detectable, smallest_shown

Table = Mapping[str, Difference]


def holm_and_bonferroni(p_values: Sequence[float]) -> list[tuple[float, float]]:
    """
    Corrected p values (Holm 1979, Bonferroni) in the order given.

    Written out because statsmodels' multipletests runs the garbage collector on every call (0.13 s
    in a large process, a hundred calls a report); a test holds the two equal.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    holm = np.empty_like(p)
    holm[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return list(zip(holm.tolist(), np.minimum(p * len(p), 1).tolist(), strict=True))


def holm_level(others: Sequence[float], alpha: float) -> float:
    """
    Below which level Holm calls one more p value significant, given the `others` of its family.

    Of the others in order, those below alpha / m, alpha / (m - 1) … are shown and make room; the
    p in question is shown exactly where it lies below alpha / (m - their number).
    """
    size = len(others) + 1
    shown = 0
    for p in sorted(others):
        if p * (size - shown) >= alpha:
            break
        shown += 1
    return alpha / (size - shown)


def corrected(pairs: Sequence[PairComparison], alpha: float) -> list[PairComparison]:
    """
    The pairs of one family with Holm's and Bonferroni's p values, each test for itself.

    A test's family are those of the pairs that have it. `smallest_shown` is set to the level that
    Holm holds this pair to, given the others: a difference is shown by McNemar's test exactly where
    it is not below it. `detectable` is set to alpha / family size: before anything is shown.
    """
    p_values = [pair.mcnemar.p for pair in pairs]
    mcnemar = holm_and_bonferroni(p_values)
    differences = _tables([pair.differences for pair in pairs])
    parts = _tables([pair.parts for pair in pairs])
    scores = _scores(pairs)
    found = []
    for i, pair in enumerate(pairs):
        level = holm_level([*p_values[:i], *p_values[i + 1 :]], alpha)
        update = {
            "mcnemar": _with(pair.mcnemar, mcnemar[i]),
            "differences": differences[i],
            "by_label": {
                label: _tables([p.by_label[label] for p in pairs])[i] for label in pair.by_label
            },
            "parts": parts[i],
            "scores": scores[i],
            "smallest_shown": smallest_shown(pair.discordant, pair.n, level),
            "detectable": detectable(pair.discordant, pair.n, alpha / len(pairs)),
        }
        found.append(pair.model_copy(update=update))
    return found


def _tables(tables: Sequence[Table]) -> list[dict[str, Difference]]:
    """Tables of differences of one family, one a pair; each name is corrected over those it has."""
    found: list[dict[str, Difference]] = [dict(table) for table in tables]
    for name in dict.fromkeys(name for table in tables for name in table):
        having = [row for row in found if name in row]
        both = holm_and_bonferroni([row[name].permutation.p for row in having])
        for row, p in zip(having, both, strict=True):
            row[name] = _corrected(row[name], p)
    return found


def _scores(pairs: Sequence[PairComparison]) -> list[list[ScoreTest]]:
    """Per-text scores: paired t, Wilcoxon and permutation, each corrected for itself."""
    tables = [{test.score: test for test in pair.scores} for pair in pairs]
    for name in dict.fromkeys(name for table in tables for name in table):
        having = [table for table in tables if name in table]
        tests = [table[name] for table in having]
        t, wilcoxon, permuted = (
            holm_and_bonferroni(p_values)
            for p_values in (
                [test.t_test.p for test in tests],
                [test.wilcoxon.p for test in tests],
                [test.resampled.permutation.p for test in tests],
            )
        )
        for i, (table, test) in enumerate(zip(having, tests, strict=True)):
            update = {
                "t_test": _with(test.t_test, t[i]),
                "wilcoxon": _with(test.wilcoxon, wilcoxon[i]),
                "resampled": _corrected(test.resampled, permuted[i]),
            }
            table[name] = test.model_copy(update=update)
    return [list(table.values()) for table in tables]


def _corrected(difference: Difference, p: tuple[float, float]) -> Difference:
    return difference.model_copy(update={"permutation": _with(difference.permutation, p)})


def _with(test: TestResult, both: tuple[float, float]) -> TestResult:
    return test.model_copy(update={"p_holm": both[0], "p_bonferroni": both[1]})
