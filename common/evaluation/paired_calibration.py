"""Whether one system is better calibrated than another: the difference of their ECE, paired."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.evaluation.calibration import bin_of
from common.evaluation.comparison import Difference
from common.evaluation.counts import Codes, Counts, Floats
from common.evaluation.resampling import (
    bootstrap_counts,
    differences_of,
    fair_halves,
    permutation_p,
    point_and_acceleration,
)


@dataclass(frozen=True)
class Confidence:
    """The probability of each text's likeliest label (NaN for none), and whether it is right."""

    sure: Floats
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class _Cells:
    """
    Texts of the same two bins and the same two verdicts: `counts` (cells,).

    `first`, `second` (cells, bins): what a text adds to each system's surplus of right answers
    over stated probability in its bin; the ECE is the sum of their sizes over the texts.
    """

    counts: Counts
    first: Floats
    second: Floats

    def difference(self, draws: NDArray[np.generic]) -> Floats:
        """ECE of the first - ECE of the second for draws of (resamples, cells)."""
        weights = draws.astype(np.float64)
        gap = self._error(weights @ self.first) - self._error(weights @ self.second)
        return np.asarray(gap / weights.sum(-1, keepdims=True))

    def exchanged(self, kept: Counts) -> Floats:
        """The same where `kept` texts of each cell keep their systems, the others swap them."""
        swapped = self.counts - kept
        one, two = kept @ self.first + swapped @ self.second, kept @ self.second
        gap = self._error(one) - self._error(two + swapped @ self.first)
        return np.asarray(gap / self.counts.sum())

    @staticmethod
    def _error(surplus: Floats) -> Floats:
        return np.asarray(np.abs(surplus).sum(-1, keepdims=True))


def confidence_of(gold: Codes, probabilities: Floats) -> Confidence:
    """From `probabilities` (texts, labels), NaN rows for none."""
    return Confidence(probabilities.max(1), probabilities.argmax(1) == gold)


def ece_difference(
    first: Confidence, second: Confidence, settings: EvaluationConfig, rng: np.random.Generator
) -> Difference | None:
    """
    ECE of the first - ECE of the second, over the texts for which both gave probabilities.

    As the ECE's own interval: inside a cell the mean probability is held fixed over resamples.
    Below 0 the first is better calibrated. None where no text has both.
    """
    both = ~(np.isnan(first.sure) | np.isnan(second.sure))
    if not both.any():
        return None
    cells = _cells(_at(first, both), _at(second, both), settings.calibration_bins)
    draws = bootstrap_counts(cells.counts, cells.difference, settings.bootstrap, rng)
    point, acceleration = point_and_acceleration(cells.counts, cells.difference)
    p = permutation_p(
        lambda rows: cells.exchanged(fair_halves(cells.counts, rows, rng)),
        point,
        cells.counts.size,
        settings.bootstrap,
    )
    return differences_of(draws, point, acceleration, p, settings.confidence_level)[0]


def _at(system: Confidence, where: NDArray[np.bool_]) -> Confidence:
    return Confidence(system.sure[where], system.right[where])


def _cells(first: Confidence, second: Confidence, bins: int) -> _Cells:
    places = [bin_of(system.sure, bins) * 2 + system.right for system in (first, second)]
    keys, place, counts = np.unique(
        places[0] * (2 * bins) + places[1], return_inverse=True, return_counts=True
    )

    def surplus(system: Confidence, where: NDArray[np.int64]) -> Floats:
        found = np.zeros((len(keys), bins))
        stated = np.bincount(place, system.sure) / counts
        found[np.arange(len(keys)), where // 2] = where % 2 - stated
        return found

    return _Cells(counts, surplus(first, keys // (2 * bins)), surplus(second, keys % (2 * bins)))
