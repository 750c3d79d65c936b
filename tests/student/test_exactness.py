"""The loss and every gradient against a plain reference: two passes, one example at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from common.config.student import StudentConfig
from common.config.training import Copying
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Branch, EncodedExample, Encoder, encode_pairs
from student.models.load import LoadedStudent, Plan
from student.sampling import micro_batches
from student.steps import Objective, batch_totals, micro_batch_terms

STUDENTS = [
    ("seq2seq", "t5", {}),
    ("seq2seq", "t5", {"task_signal": "decoder"}),
    ("seq2seq", "bert", {}),
    ("seq2seq", "bert", {"task_signal": "decoder"}),
    ("causal", "gpt2", {}),
    ("causal", "bert", {}),
    # Llama's eager attention takes its softmax in float32; sdpa stays in float64.
    ("causal", "llama", {"attention": "sdpa"}),
    ("seq2seq", "t5", {"attention": "sdpa"}),
]
LAMBDA = 0.7

Prepared = tuple[LoadedStudent, Encoder, list[EncodedExample]]


@pytest.fixture(scope="module", params=STUDENTS, ids=lambda p: "-".join(map(str, p)))
def prepared(
    request: pytest.FixtureRequest,
    untrained: Callable[..., tuple[LoadedStudent, Encoder]],
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> Prepared:
    architecture, family, more = request.param
    config = tiny(architecture, family, **more)
    pairs = make_pairs(9)
    loaded, encoder = untrained(config, task, pairs, Plan(row_tokens=128))
    loaded.module.double().eval()
    full_precision_norms(loaded.module)
    return loaded, encoder, encode_pairs(encoder, pairs)


def full_precision_norms(module: torch.nn.Module) -> None:
    """T5's and Llama's norms compute in float32 whatever they are given: not in these tests."""
    for part in module.modules():
        if type(part).__name__ in ("T5LayerNorm", "LlamaRMSNorm"):
            part.forward = partial(rms_norm, part)


def rms_norm(part: Any, states: torch.Tensor) -> torch.Tensor:
    scale: torch.Tensor = part.weight
    return (
        scale * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + part.variance_epsilon)
    )


def branch_logs(loaded: LoadedStudent, example: EncodedExample, branch: Branch) -> torch.Tensor:
    """Log-probabilities of one branch's targets from one plain pass: no padding, mask, packing."""
    core = loaded.core
    context = torch.tensor([example.contexts[branch.context]])
    inputs = torch.tensor([branch.inputs])
    if core.config.is_encoder_decoder:
        logits = core(input_ids=context, decoder_input_ids=inputs).logits[0]
    else:
        whole = torch.cat([context, inputs], dim=1)
        logits = core(input_ids=whole).logits[0, context.shape[1] :]
    asked = [(i, t) for i, t in enumerate(branch.targets) if t != -100]
    places, targets = zip(*asked, strict=True)
    found: torch.Tensor = torch.log_softmax(logits, dim=-1)[list(places), list(targets)]
    return found


def reference_loss(loaded: LoadedStudent, examples: list[EncodedExample]) -> torch.Tensor:
    """Two plain passes per example; weighted token means."""
    sums = {True: torch.zeros((), dtype=torch.float64), False: torch.zeros((), dtype=torch.float64)}
    counts = {True: 0.0, False: 0.0}
    for example in examples:
        for branch in example.branches:
            logs, is_label = branch_logs(loaded, example, branch), branch.label is not None
            sums[is_label] = sums[is_label] - example.weight * logs.sum()
            counts[is_label] += example.weight * len(logs)
    return sums[True] / counts[True] + LAMBDA * sums[False] / counts[False]


def our_loss(loaded: LoadedStudent, examples: list[EncodedExample], size: int) -> float:
    """Loss accumulated over micro-batches of `size`; gradients are left on the model."""
    loaded.module.zero_grad()
    totals, total = batch_totals(examples), 0.0
    for part in micro_batches(examples, size):
        terms = micro_batch_terms(
            loaded.module, part, Objective(rationale_weight=LAMBDA), torch.device("cpu")
        )
        loss = terms.loss(totals, LAMBDA)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def gradients(loaded: LoadedStudent) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in loaded.module.named_parameters() if p.grad is not None
    }


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    worst = max(float((first[n] - second[n]).abs().max()) for n in first)
    assert worst < 1e-9, worst


def test_loss_and_gradients_equal_the_plain_two_pass_reference(prepared: Prepared) -> None:
    loaded, _, examples = prepared
    loaded.module.zero_grad()
    expected = reference_loss(loaded, examples)
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(loaded)

    got = our_loss(loaded, examples, size=9)

    assert got == pytest.approx(float(expected.detach()), abs=1e-9)
    assert_same(gradients(loaded), wanted)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_whole_batch(prepared: Prepared, size: int) -> None:
    loaded, _, examples = prepared
    whole = our_loss(loaded, examples, size=9)
    wanted = gradients(loaded)

    got = our_loss(loaded, examples, size=size)

    assert got == pytest.approx(whole, abs=1e-9)
    assert_same(gradients(loaded), wanted)


def test_soft_label_term_equals_a_reference_that_scores_each_label_string_alone(
    prepared: Prepared, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    loaded, encoder, _ = prepared
    soft = {"negative": 0.6, "neutral": 0.3, "positive": 0.1}
    pairs = [
        pair.model_copy(update={"probabilities": soft if i % 2 else None, "rationale": None})
        for i, pair in enumerate(make_pairs(5))
    ]
    examples = encode_pairs(encoder, pairs, all_labels=True)
    share, temperature = 0.25, 2.0
    loaded.module.zero_grad()
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for example in examples:
        labels = {b.label: branch_logs(loaded, example, b) for b in example.branches}
        gold = labels[example.gold]
        count += example.weight * len(gold)
        mine = share if example.soft else 0.0
        total = total - (1 - mine) * example.weight * gold.sum()
        if example.soft:
            strings = torch.stack([labels[k].sum() for k in range(3)]) / temperature
            roots = torch.tensor(example.soft, dtype=torch.float64) ** (1 / temperature)
            cross = -(roots / roots.sum() * torch.log_softmax(strings, 0)).sum()
            scale = mine * example.weight * len(gold) * temperature**2
            total = total + scale * cross
    expected = total / count
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(loaded)

    loaded.module.zero_grad()
    objective = Objective(1.0, soft_share=share, temperature=temperature)
    terms = micro_batch_terms(loaded.module, examples, objective, torch.device("cpu"))
    loss = terms.loss(batch_totals(examples), 1.0)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    assert_same(gradients(loaded), wanted)


def test_order_of_examples_does_not_matter(prepared: Prepared) -> None:
    loaded, _, examples = prepared
    first = our_loss(loaded, examples, size=4)
    wanted = gradients(loaded)

    second = our_loss(loaded, examples[::-1], size=4)

    assert second == pytest.approx(first, abs=1e-9)
    assert_same(gradients(loaded), wanted)


def test_prompt_and_task_words_carry_no_loss(prepared: Prepared) -> None:
    loaded, _, examples = prepared

    batch = loaded.module.collate(examples)

    asked = int((batch["targets"] != -100).sum())
    assert asked == sum(b.target_count for e in examples for b in e.branches)


def test_copied_texts_are_scored_as_in_a_plain_pass_each(prepared: Prepared) -> None:
    loaded, encoder, _ = prepared
    if encoder.causal:
        pytest.skip("a causal student copies nothing")
    words = (("Profit rose.", 1.0), ("Sales of the old mills fell in May.", 0.25))
    pairs = [
        TrainingPair(example_id=text, text=text, label="neutral", weight=weight)
        for text, weight in words
    ]
    copies = [e.copy for e in encode_pairs(encoder, pairs, copying=Copying(labels=False)) if e.copy]

    totals = batch_totals(copies)
    terms = micro_batch_terms(loaded.module, copies, Objective(soft_share=0.5), torch.device("cpu"))

    alone = sum(
        -e.weight * float(branch_logs(loaded, e, e.branches[0]).sum().detach()) for e in copies
    )
    assert float(terms.rationale.detach()) == pytest.approx(alone, abs=1e-9)
    assert float(terms.label.detach()) == 0
    assert (totals.label, totals.rationale) == (
        0,
        sum(e.weight * e.branches[0].target_count for e in copies),
    )


def test_examples_without_rationale_add_only_their_label(prepared: Prepared) -> None:
    _, _, examples = prepared
    bare = [e for e in examples if all(b.label is not None for b in e.branches)]
    full = [e for e in examples if e not in bare]
    assert bare
    assert full

    totals = batch_totals(examples)

    assert totals.rationale == batch_totals(full).rationale
    assert totals.label == pytest.approx(batch_totals(full).label + batch_totals(bare).label)


def test_weight_zero_is_the_label_only_student_and_reads_no_rationale(
    prepared: Prepared, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    _, encoder, _ = prepared
    pairs = make_pairs(6)
    bare = [pair.model_copy(update={"rationale": None}) for pair in pairs]

    without = encode_pairs(encoder, pairs, rationale=False)

    assert without == encode_pairs(encoder, bare)
    assert all(b.label is not None for e in without for b in e.branches)
    assert all(len(e.contexts) == 1 for e in without)


def test_a_long_rationale_does_not_outweigh_the_label(prepared: Prepared) -> None:
    loaded, _, examples = prepared
    device = torch.device("cpu")
    with torch.no_grad():
        terms = micro_batch_terms(loaded.module, examples, Objective(), device)
    totals = batch_totals(examples)

    one_mean = (terms.label + terms.rationale) / (totals.label + totals.rationale)
    loss = terms.loss(totals, 1.0)

    assert float(loss) > 1.5 * float(one_mean)  # the sum of two means, not one mean over all


def unpacked(loaded: LoadedStudent) -> Any:
    from student.models.seq2seq import Seq2SeqStudent

    return Seq2SeqStudent(loaded.module.model, loaded.tokens.pad, packed=False)


def test_decoder_rows_per_branch_give_the_same_scores_as_packed_ones(prepared: Prepared) -> None:
    loaded, _, examples = prepared
    if not loaded.core.config.is_encoder_decoder:
        return  # causal students have no other layout
    other = unpacked(loaded).eval()

    with torch.no_grad():
        packed = loaded.module(**loaded.module.collate(examples))
        rows = other(**other.collate(examples))

    assert torch.allclose(packed.tokens, rows.tokens, atol=1e-9)


def test_label_first_token_has_no_space_artefact(prepared: Prepared, task: TaskDefinition) -> None:
    loaded, encoder, _ = prepared
    for branch in encoder.encode_text("A plain text.").branches:
        asked = [t for t in branch.targets if t != -100]

        text = str(loaded.tokenizer.decode(asked, skip_special_tokens=True))

        assert branch.label is not None
        assert text.strip() == task.label_names[branch.label]
        if encoder.causal:
            prompt = "predict:"
            joint = loaded.tokenizer(f"{prompt} {text.strip()}", add_special_tokens=False)
            ids = [*branch.inputs, asked[-1]]
            assert ids == [*joint["input_ids"], loaded.tokens.end]
