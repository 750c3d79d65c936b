"""An export is compared with its student before it counts as one."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.errors import StudentError
from student.predict import Predictor

RATIONALES = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    How far an export may drift from its student on the texts it is compared on.

    `labels`: share of texts whose label differs, near ties aside (the student's own lead over the
    other label is below `tie`); `probability`: mean absolute difference of the labels'
    probabilities; `log_probability`: mean absolute difference, in nats, for the student's label;
    `rationales`: least mean likeness of rationales (1: the same words in the same order).
    """

    labels: float
    tie: float
    probability: float
    log_probability: float
    rationales: float


# Float32 in another order of operations: what remains is rounding, and greedy decoding that meets a
# tie. Half precision has 11 bits. int8: rows and columns have a scale each; 99.5 % of labels stay.
BOUNDS = {
    "float32": Bounds(0.0, 1e-3, 1e-4, 1e-3, 0.95),
    "float16": Bounds(0.0, 1e-2, 5e-3, 1e-2, 0.8),
    "int8": Bounds(0.005, 0.01, 0.02, 0.1, 0.5),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """
    What a student or an export says. `scores` (texts, labels): log-probabilities; `rationales`: of
    the first few texts, empty where it writes none.
    """

    scores: Tensor
    rationales: Sequence[str]


def answers(predictor: Predictor, texts: Sequence[str]) -> Answers:
    """Ask for all that is compared, so that the predictor is needed no more."""
    few = texts[:RATIONALES] if predictor.explains else []
    return Answers(predictor.scores(texts), [r or "" for r in predictor.rationales(few)])


def drift(student: Answers, export: Answers, tie: float) -> dict[str, float]:
    """
    The figures that Bounds bounds, under its names, and `texts`.

    Rationales are compared where both sides write them.
    """
    own, other = student.scores, export.scores
    first, second = own.argmax(-1), other.argmax(-1)
    lead = own.exp().gather(1, first[:, None]) - own.exp().gather(1, second[:, None])
    chosen = (own - other).gather(1, first[:, None]).abs()
    found = {
        "texts": float(len(own)),
        "labels": _mean((lead[:, 0] > tie).float()),
        "probability": _mean((own.exp() - other.exp()).abs()),
        "log_probability": _mean(chosen),
    }
    if student.rationales and export.rationales:
        pairs = zip(student.rationales, export.rationales, strict=True)
        likeness = [_likeness(one, another) for one, another in pairs]
        found["rationales"] = sum(likeness) / len(likeness)
    return found


def require_faithful(
    found: dict[str, float], bounds: Bounds, form: str, texts: str = "texts"
) -> None:
    """Raises StudentError naming every figure beyond its bound; `texts`: what they are called."""
    faults = [
        f"{name} {found[name]:.4g} (at most {getattr(bounds, name):.4g})"
        for name in ("labels", "probability", "log_probability")
        if not found[name] <= getattr(bounds, name)
    ]
    if found.get("rationales", 1.0) < bounds.rationales:
        faults.append(f"rationales {found['rationales']:.4g} (at least {bounds.rationales:.4g})")
    if faults:
        raise StudentError(
            f"export --format {form}: it does not answer like its student on {found['texts']:.0f} "
            f"{texts}: {', '.join(faults)}; nothing was kept. Try --numbers float32 or "
            "--format merged, and report it."
        )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _likeness(one: str, another: str) -> float:
    if one == another:
        return 1.0
    return difflib.SequenceMatcher(None, one.split(), another.split(), autojunk=False).ratio()
