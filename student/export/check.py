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
    How far an export may drift from its student on the validation texts.

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


def drift(
    student: Predictor, export: Predictor, texts: Sequence[str], tie: float
) -> dict[str, float]:
    """
    The figures that Bounds bounds, under its names, and `texts`.

    Rationales are compared on the first few texts where both sides write them.
    """
    own, other = student.scores(texts), export.scores(texts)
    first, second = own.argmax(-1), other.argmax(-1)
    lead = own.exp().gather(1, first[:, None]) - own.exp().gather(1, second[:, None])
    chosen = (own - other).gather(1, first[:, None]).abs()
    found = {
        "texts": float(len(texts)),
        "labels": _mean((lead[:, 0] > tie).float()),
        "probability": _mean((own.exp() - other.exp()).abs()),
        "log_probability": _mean(chosen),
    }
    if student.explains and export.explains:
        few = texts[:RATIONALES]
        pairs = zip(student.rationales(few), export.rationales(few), strict=True)
        likeness = [_likeness(one or "", another or "") for one, another in pairs]
        found["rationales"] = sum(likeness) / len(likeness)
    return found


def require_faithful(found: dict[str, float], bounds: Bounds, form: str) -> None:
    """Raises StudentError naming every figure beyond its bound."""
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
            f"validation texts: {', '.join(faults)}; nothing was kept. Try --numbers float32 or "
            "--format merged, and report it."
        )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _likeness(one: str, another: str) -> float:
    if one == another:
        return 1.0
    return difflib.SequenceMatcher(None, one.split(), another.split(), autojunk=False).ratio()
