"""Which systems are seeds of one recipe, and how the groups compare."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from common.config.run import EvaluationConfig
from common.evaluation.comparison import GroupComparison, SeedGroup
from common.evaluation.correction import holm_and_bonferroni, holm_level
from common.evaluation.counts import METRICS, Codes
from common.evaluation.pairs import Answers
from common.evaluation.resampling import seeded
from common.evaluation.seeds import bootstrap_p, compare_groups, group_draws, seed_group
from common.evaluation.verdicts import display_name, group_sentence, headline
from common.records import EvaluationReport

Seeds = tuple[str, Codes]  # a name and the answers of each of its seeds: (seeds, texts)
PRIMARY, SECONDARY = "primary", "secondary"  # families: with the reference, and all others


def compare_seed_groups(
    reports: Sequence[EvaluationReport],
    gold: Codes,
    answers: Sequence[Answers],
    labels: int,
    settings: EvaluationConfig,
    reference: str,
) -> tuple[list[SeedGroup], list[GroupComparison]]:
    """
    The groups (by `system.group`; a system without one stands alone) and every pair of them.

    The pairs of the `reference`'s group are the primary family, those of the others the secondary.
    Both empty where no group has two runs: then there is no hierarchy to speak of.
    """
    members: dict[str, list[int]] = {}
    for i, report in enumerate(reports):
        card = report.system
        named = card.model_copy(update={"title": card.group or card.title})
        members.setdefault(display_name(named), []).append(i)
    if all(len(places) < 2 for places in members.values()):
        return [], []
    stacks = {name: np.stack([answers[i].codes for i in m]) for name, m in members.items()}
    groups = [
        seed_group(
            name,
            [reports[i].system.name for i in places],
            [reports[i].system.seed for i in places],
            gold,
            stacks[name],
            labels,
            resamples=settings.bootstrap,
            level=settings.confidence_level,
            rng=seeded(settings, name),
        )
        for name, places in members.items()
    ]
    own = next(g.name for g in groups if reference in g.systems)
    others = [name for name in members if name != own]
    families = {
        PRIMARY: [(own, other) for other in others],
        SECONDARY: [*combinations(others, 2)],
    }
    return groups, [
        pair.model_copy(update={"family": family})
        for family, names in families.items()
        for pair in compare_family(
            [((one, stacks[one]), (two, stacks[two])) for one, two in names], gold, labels, settings
        )
    ]


def compare_family(
    pairs: Sequence[tuple[Seeds, Seeds]],
    gold: Codes,
    labels: int,
    settings: EvaluationConfig,
) -> list[GroupComparison]:
    """The pairs with verdicts, p values corrected over all of them."""
    draws = [
        group_draws(gold, first, second, labels, settings.bootstrap, seeded(settings, one, two))
        for (one, first), (two, second) in pairs
    ]
    p_values = [bootstrap_p(drawn[:, METRICS.index("accuracy")]) for drawn in draws]
    found = [
        compare_groups(
            (one, two),
            gold,
            first,
            second,
            labels,
            draws=draws[i],
            level=settings.confidence_level,
            least_p=holm_level([*p_values[:i], *p_values[i + 1 :]], settings.alpha),
        )
        for i, ((one, first), (two, second)) in enumerate(pairs)
    ]
    return _with_verdicts(found, settings.alpha)


def group_headline(
    groups: Sequence[SeedGroup], pairs: Sequence[GroupComparison], reference: str
) -> str:
    """Where the reference's recipe stands among the recipes."""
    group = group_of(groups, reference)
    own = [pair for pair in pairs if group.name in (pair.first, pair.second)]
    names = {g.name: g.name for g in groups}
    return headline(group.name, group.metrics["accuracy"].value, own, names)


def group_of(groups: Sequence[SeedGroup], system: str) -> SeedGroup:
    """The group that a system belongs to."""
    return next(group for group in groups if system in group.systems)


def _with_verdicts(pairs: Sequence[GroupComparison], alpha: float) -> list[GroupComparison]:
    """The pairs with p values corrected over all of them, outcome and verdict."""
    found = []
    for pair, (holm, bonferroni) in zip(
        pairs, holm_and_bonferroni([p.bootstrap.p for p in pairs]), strict=True
    ):
        test = pair.bootstrap.model_copy(update={"p_holm": holm, "p_bonferroni": bonferroni})
        pair = pair.model_copy(update={"bootstrap": test})
        outcome, verdict = group_sentence(pair, alpha)
        found.append(pair.model_copy(update={"outcome": outcome, "verdict": verdict}))
    return found
