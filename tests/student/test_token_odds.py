"""Token-level distillation: the divergence by hand, exact in whole, and whose tokens are whose."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.student import StudentConfig
from common.config.training import TokenDistillation, TrainingConfig
from common.errors import StudentError
from common.records import TokenOdds, TrainingPair
from common.task import TaskDefinition
from student.encoding import EncodedExample, Encoder, encode_pairs
from student.losses import token_divergence_sum
from student.models.load import LoadedStudent, Plan
from student.sampling import micro_batches
from student.steps import Objective, batch_totals, micro_batch_terms
from student.token_odds import with_rest
from student.train import train_student

Tiny = Callable[..., StudentConfig]
MakePairs = Callable[[int], list[TrainingPair]]
LAMBDA, SHARE, HEAT, TOLERANCE = 0.7, 0.4, 2.0, 1e-9


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_divergence_at_temperature_one_is_plain_kl() -> None:
    student, teacher = [0.5, 0.3, 0.2], [0.6, 0.1, 0.3]
    expected = 2 * sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))

    got = token_divergence_sum(one(*student).log()[None], one(*teacher).log()[None], one(2.0), 1.0)

    assert float(got) == pytest.approx(expected)


def test_divergence_at_temperature_two_follows_hinton() -> None:
    def softened(p: list[float]) -> list[float]:
        roots = [math.sqrt(v) for v in p]
        return [r / sum(roots) for r in roots]

    student, teacher = [0.5, 0.3, 0.2], [0.6, 0.1, 0.3]
    pairs = zip(softened(teacher), softened(student), strict=True)
    expected = 4 * sum(p * math.log(p / q) for p, q in pairs)

    got = token_divergence_sum(one(*student).log()[None], one(*teacher).log()[None], one(1.0), 2.0)

    assert float(got) == pytest.approx(expected)


def test_a_teacher_that_agrees_costs_nothing_and_pulls_nowhere() -> None:
    scores = one(0.5, 0.3, 0.2).log()[None].requires_grad_()

    got = token_divergence_sum(scores, scores.detach(), one(1.0), 1.5)
    got.backward()  # type: ignore[no-untyped-call]

    assert float(got.detach()) == pytest.approx(0.0, abs=1e-12)
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) < 1e-12


def test_places_with_fewer_alternatives_are_padded_without_effect() -> None:
    ids, logs = with_rest(((7, math.log(0.6)),), 3)

    assert ids == [7, 7, 7]
    assert logs == pytest.approx([math.log(0.6), -math.inf, -math.inf, math.log(0.4)])
    student = one(0.5, 0.5, 0.5, 0.5).log()[None].requires_grad_()
    got = token_divergence_sum(student, one(*logs)[None], one(1.0), 1.0)
    got.backward()  # type: ignore[no-untyped-call]
    assert float(got.detach()) == pytest.approx(0.6 * math.log(1.2) + 0.4 * math.log(0.8))
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


@pytest.fixture(scope="module", params=[("causal", "llama"), ("causal", "gpt2"), ("seq2seq", "t5")])
def prepared(
    request: pytest.FixtureRequest,
    untrained: Callable[..., tuple[LoadedStudent, Encoder]],
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: MakePairs,
) -> tuple[LoadedStudent, Encoder, list[TrainingPair]]:
    # Llama's eager attention takes its softmax in float32; sdpa stays in float64.
    more = {"attention": "sdpa"} if "llama" in request.param else {}
    config, pairs = tiny(*request.param, **more), make_pairs(7)
    loaded, encoder = untrained(config, task, pairs, Plan(row_tokens=128))
    loaded.module.double().eval()
    for part in loaded.module.modules():
        if type(part).__name__ in ("T5LayerNorm", "LlamaRMSNorm"):
            part.forward = partial(rms_norm, part)
    return loaded, encoder, [told(encoder, pair) for pair in pairs]


def rms_norm(part: Any, states: torch.Tensor) -> torch.Tensor:
    """T5's and Llama's norms compute in float32 whatever they are given: not in these tests."""
    spread = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + part.variance_epsilon)
    scaled: torch.Tensor = part.weight * states * spread
    return scaled


def told(encoder: Encoder, pair: TrainingPair) -> TrainingPair:
    """The pair as a teacher with the student's own vocabulary would leave it: odds per token."""
    if pair.rationale is None:
        return pair
    known, _ = encoder._bytes
    branch = encoder.encode_pair(pair).branches[-1]
    pieces = [known[t].decode() for t in branch.targets[-branch.target_count : -1]]
    others = [text.decode() for text in known.values() if text.isalpha()][:5]
    odds, place = [], 0
    for number, piece in enumerate(pieces):
        piece = piece.removeprefix(" ") if number == 0 else piece
        rivals = [other for other in others if other != piece][: 1 + number % 4]
        tops = {piece: math.log(0.5), **{rival: math.log(0.1) for rival in rivals}}
        odds.append(TokenOdds(start=place, token=piece, top={**tops, "~not a token~": -4.0}))
        place += len(piece.encode())
    return pair.model_copy(update={"rationale_odds": odds})


def plain_loss(loaded: LoadedStudent, examples: list[EncodedExample]) -> torch.Tensor:
    """One plain pass per branch, one token at a time, whole distributions."""
    label, rationale = one(0.0)[0], one(0.0)[0]
    totals = batch_totals(examples)
    for example in examples:
        for branch in example.branches:
            logs = torch.log_softmax(
                branch_logits(loaded, example, branch.inputs, branch.context), -1
            )
            for place, target in enumerate(branch.targets):
                if target == -100:
                    continue
                hard = -example.weight * logs[place, target]
                if branch.label is not None:
                    label = label + hard
                    continue
                odds = branch.taught[place] if branch.taught else ()
                if not odds:
                    rationale = rationale + hard
                    continue
                apart = divergence(logs[place], odds)
                rationale = rationale + (1 - SHARE) * hard + SHARE * example.weight * apart
    return label / totals.label + LAMBDA * rationale / totals.rationale


def divergence(logs: torch.Tensor, odds: tuple[tuple[int, float], ...]) -> torch.Tensor:
    """T^2 KL over the teacher's tokens and the rest, from probabilities alone."""
    p = one(*(math.exp(value) for _, value in odds))
    q = torch.stack([logs[token].exp() for token, _ in odds])
    p, q = torch.cat([p, 1 - p.sum()[None]]), torch.cat([q, 1 - q.sum()[None]])
    p, q = p ** (1 / HEAT) / (p ** (1 / HEAT)).sum(), q ** (1 / HEAT) / (q ** (1 / HEAT)).sum()
    return HEAT**2 * (p * (p / q).log()).sum()


def branch_logits(
    loaded: LoadedStudent, example: EncodedExample, inputs: tuple[int, ...], context: int
) -> torch.Tensor:
    core, read = loaded.core, torch.tensor([example.contexts[context]])
    if core.config.is_encoder_decoder:
        found: torch.Tensor = core(input_ids=read, decoder_input_ids=torch.tensor([inputs])).logits
        return found[0]
    whole: torch.Tensor = core(input_ids=torch.cat([read, torch.tensor([inputs])], dim=1)).logits
    return whole[0, read.shape[1] :]


@pytest.mark.parametrize("size", [7, 2])
def test_loss_and_gradients_equal_a_plain_reference(
    prepared: tuple[LoadedStudent, Encoder, list[TrainingPair]], size: int
) -> None:
    loaded, encoder, pairs = prepared
    examples = encode_pairs(encoder, pairs, token_odds=True)
    loaded.module.zero_grad()
    expected = plain_loss(loaded, examples)
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(loaded)
    loaded.module.zero_grad()
    objective = Objective(LAMBDA, token_share=SHARE, token_temperature=HEAT)

    total = 0.0
    for part in micro_batches(examples, size):
        terms = micro_batch_terms(loaded.module, part, objective, torch.device("cpu"))
        loss = terms.loss(batch_totals(examples), LAMBDA)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())

    assert total == pytest.approx(float(expected.detach()), abs=TOLERANCE)
    found = gradients(loaded)
    assert found.keys() == wanted.keys()
    assert max(float((found[n] - wanted[n]).abs().max()) for n in wanted) < TOLERANCE


def gradients(loaded: LoadedStudent) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in loaded.module.named_parameters() if p.grad is not None}


def test_every_token_within_the_rationale_is_taught(
    prepared: tuple[LoadedStudent, Encoder, list[TrainingPair]],
) -> None:
    _, encoder, pairs = prepared
    branch = encoder.encode_pair(pairs[1], token_odds=True).branches[-1]

    taught = [bool(odds) for odds in branch.taught][-branch.target_count :]

    # a causal student's first token has a space that the teacher's, inside JSON, has not
    first = not encoder.causal
    assert taught == [first, *[True] * (branch.target_count - 2), False]
    assert all(len(odds) >= 2 for odds in branch.taught if odds)  # "~not a token~" is left out


def test_a_share_of_nothing_is_the_plain_loss(
    prepared: tuple[LoadedStudent, Encoder, list[TrainingPair]],
) -> None:
    loaded, encoder, pairs = prepared
    with_odds = encode_pairs(encoder, pairs, token_odds=True)
    without = encode_pairs(encoder, pairs)
    cpu = torch.device("cpu")

    first = micro_batch_terms(loaded.module, with_odds, Objective(), cpu).rationale
    second = micro_batch_terms(loaded.module, without, Objective(), cpu).rationale

    assert torch.equal(first, second)


def train(tmp_path: Path, config: StudentConfig, task: TaskDefinition, pairs: object) -> object:
    training = TrainingConfig(
        max_steps=2, evaluations=0, seed=1, batch_size=4, token_distillation=TokenDistillation()
    )
    return train_student(
        student=config, training=training, task=task, train=pairs, validation=[],  # type: ignore[arg-type]
        folder=tmp_path,
    )  # fmt: skip


def test_training_without_any_odds_is_refused(
    tmp_path: Path, task: TaskDefinition, tiny: Tiny, make_pairs: MakePairs
) -> None:
    with pytest.raises(StudentError, match="no training pair holds its teacher's token prob"):
        train(tmp_path, tiny("causal", "llama"), task, make_pairs(4))


def test_a_teacher_with_other_tokens_is_refused(
    tmp_path: Path, task: TaskDefinition, tiny: Tiny, make_pairs: MakePairs
) -> None:
    def letters(pair: TrainingPair) -> TrainingPair:
        text = pair.rationale or ""
        odds = [TokenOdds(start=i, token=c, top={c: -0.1}) for i, c in enumerate(text)]
        return pair.model_copy(update={"rationale_odds": odds or None})

    with pytest.raises(StudentError, match="choose a student with the teacher's tokenizer"):
        train(tmp_path, tiny("causal", "llama"), task, [letters(p) for p in make_pairs(4)])


def test_odds_do_not_change_the_digest_of_pairs_without_them(make_pairs: MakePairs) -> None:
    [pair] = make_pairs(1)

    assert "rationale_odds" not in pair.model_dump(mode="json")
    assert "token_distillation" not in TrainingConfig().model_dump(mode="json")
