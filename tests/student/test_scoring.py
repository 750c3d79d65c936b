"""Labels scored in one pass against a plain reference: every label on its own, every token."""

from collections.abc import Callable

import pytest
import torch

from common.config.student import StudentConfig
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Branch, Encoder
from student.models.load import LoadedStudent
from student.scoring import ReducedHead, TorchScorer, batches_by_length
from student.trie import label_trie

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
CPU = torch.device("cpu")

STUDENTS = [
    ("seq2seq", "t5", {}),
    ("seq2seq", "t5", {"task_signal": "decoder", "attention": "sdpa"}),
    ("seq2seq", "bert", {"task_signal": "decoder"}),
    ("seq2seq", "t5", {"lora": {"rank": 4}}),
    ("causal", "gpt2", {}),
    ("causal", "gpt2", {"attention": "sdpa"}),
    ("causal", "llama", {}),
    ("causal", "llama", {"lora": {"rank": 4}}),
    ("classifier", "bert", {}),
]
# Shared beginnings, and a label that is the beginning of another.
LABELS = ["very good", "very bad", "plain", "plain indeed", "very good indeed"]


def labels_task(task: TaskDefinition, names: list[str]) -> TaskDefinition:
    tree = task.model_dump()
    tree["labels"] = [{"name": name} for name in names]
    tree["lenient_reading"] = None
    return TaskDefinition.model_validate(tree)


@pytest.fixture(scope="module", params=["shipped labels", "branching labels"])
def any_task(request: pytest.FixtureRequest, task: TaskDefinition) -> TaskDefinition:
    return task if request.param == "shipped labels" else labels_task(task, LABELS)


@pytest.fixture(scope="module", params=STUDENTS, ids=lambda p: "-".join(map(str, p)))
def prepared(
    request: pytest.FixtureRequest,
    untrained: Callable[..., tuple[LoadedStudent, Encoder]],
    any_task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
) -> tuple[LoadedStudent, Encoder]:
    architecture, family, more = request.param
    config = tiny(architecture, family, **more)
    loaded, encoder = untrained(config, any_task, make_pairs(9))
    loaded.module.eval()
    return loaded, encoder


def reference(loaded: LoadedStudent, encoder: Encoder, text: str) -> list[float]:
    """One forward pass per label over all its tokens, full vocabulary, no batch, no tree."""
    branches = encoder.encode_text(text).branches
    context = torch.tensor([encoder.encode_text(text).contexts[0]])
    if not branches[0].inputs:
        logits = loaded.core(input_ids=context).logits[0, loaded.module.order]
        return [float(x) for x in torch.log_softmax(logits, -1)]
    strings = [[t for t in b.targets if t != -100] for b in branches]
    sums = []
    for branch, string in zip(branches, strings, strict=True):
        inputs = torch.tensor([branch.inputs])
        if loaded.core.config.is_encoder_decoder:
            logits = loaded.core(input_ids=context, decoder_input_ids=inputs).logits[0]
        else:
            whole = torch.cat([context, inputs], 1)
            logits = loaded.core(input_ids=whole).logits[0, context.shape[1] :]
        logits = logits[-len(string) :]
        total = 0.0
        for place, token in enumerate(string):
            going_on = {s[place] for s in strings if s[:place] == string[:place] and len(s) > place}
            chosen = sorted(going_on)
            logs = torch.log_softmax(logits[place, chosen], -1)
            total += float(logs[chosen.index(token)])
        sums.append(total)
    return sums


@torch.no_grad()
def test_label_probabilities_equal_the_plain_reference(
    prepared: tuple[LoadedStudent, Encoder], make_pairs: Pairs
) -> None:
    loaded, encoder = prepared
    texts = [pair.text for pair in make_pairs(7)] + ["A"]
    wanted = torch.tensor([reference(loaded, encoder, text) for text in texts])

    scorer = TorchScorer(loaded.module, encoder.encode_text(""), CPU)
    got = scorer.scores(encoder.text_contexts(texts), batch_size=3)

    assert torch.allclose(got, wanted, atol=1e-5), (got - wanted).abs().max()
    assert torch.allclose(got.exp().sum(-1), torch.ones(len(texts)), atol=1e-6)


def test_labels_whose_first_tokens_differ_are_told_apart_at_one_position() -> None:
    branches = [
        Branch((7, 10), (10, 1), 0),
        Branch((7, 20, 21), (20, 21, 1), 1),
        Branch((7, 30, 31, 32), (30, 31, 32, 1), 2),
    ]

    trie = label_trie(branches)

    assert trie.opening == (7,)
    assert trie.paths == ((),)
    assert trie.places == ((0, 0),)
    assert trie.tokens == (10, 20, 30)


def test_a_shared_beginning_is_read_once_and_branches_where_labels_part() -> None:
    # 10 11 | 10 12 | 20, with end token 1; the task word is two tokens, as in a causal student.
    branches = [
        Branch((7, 8, 10, 11), (-100, 10, 11, 1), 0),
        Branch((7, 8, 10, 12), (-100, 10, 12, 1), 1),
        Branch((7, 8, 20), (-100, 20, 1), 2),
    ]

    trie = label_trie(branches)

    assert trie.opening == (7, 8)
    assert trie.paths == ((10,),)
    assert trie.options == ((10, 20), (11, 12))
    # Worked by hand: 0.75 * 0.5, 0.75 * 0.5, 0.25; logits of tokens that cannot follow are ignored.
    wild = 9.0
    logits = torch.tensor([[[3.0, wild, wild, 1.0], [wild, 2.0, 2.0, wild]]]).log()
    assert trie.tokens == (10, 11, 12, 20)
    got = trie.label_logs(logits).exp()[0].tolist()
    assert got == pytest.approx([0.375, 0.375, 0.25])


def test_a_label_that_begins_another_is_told_by_its_end_token() -> None:
    branches = [Branch((7, 10), (10, 1), 0), Branch((7, 10, 11), (10, 11, 1), 1)]

    trie = label_trie(branches)

    assert trie.options == ((1, 11),)
    assert trie.paths == ((10,),)


def test_labels_that_become_the_same_tokens_are_refused() -> None:
    branches = [Branch((7, 10), (10, 1), 0), Branch((7, 10), (10, 1), 1)]

    with pytest.raises(StudentError, match="not all different"):
        label_trie(branches)


def test_contexts_tokenised_together_are_those_tokenised_alone(
    prepared: tuple[LoadedStudent, Encoder],
) -> None:
    _, encoder = prepared
    texts = ["Short.", "Sales rose. " * 200, ""]

    together = encoder.text_contexts(texts)

    assert together == [encoder.encode_text(text).contexts[0] for text in texts]
    assert len(together[1]) <= encoder.config.max_input_tokens


def test_the_model_keeps_its_own_head_after_scoring(
    prepared: tuple[LoadedStudent, Encoder],
) -> None:
    loaded, encoder = prepared
    before = dict(loaded.core.named_modules()).keys()

    TorchScorer(loaded.module, encoder.encode_text(""), CPU).scores([(5, 6)], 4)

    assert dict(loaded.core.named_modules()).keys() == before


def test_the_head_computes_the_labels_tokens_alone(
    prepared: tuple[LoadedStudent, Encoder],
) -> None:
    loaded, _ = prepared
    if loaded.core.get_output_embeddings() is None and not loaded.core.config.is_encoder_decoder:
        pytest.skip("a classifier has no vocabulary")
    head = ReducedHead(loaded.core, [5, 9])

    width = loaded.core.get_input_embeddings().weight.shape[1]
    assert head(torch.zeros(1, 3, width)).shape == (1, 3, 2)


@pytest.mark.parametrize(("architecture", "family"), [("seq2seq", "t5"), ("causal", "gpt2")])
@torch.no_grad()
def test_the_labels_logits_of_half_precision_weights_are_not_rounded(
    untrained: Callable[..., tuple[LoadedStudent, Encoder]],
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    architecture: str,
    family: str,
) -> None:
    loaded, _ = untrained(tiny(architecture, family), task, make_pairs(9))
    core = loaded.core.to(torch.bfloat16)
    rows = core.get_output_embeddings().weight[[5, 9]]
    states = 10.3 * rows / rows.norm(dim=-1, keepdim=True) ** 2  # logits near 10

    got = ReducedHead(core, [5, 9])(states[None])[0]

    wanted = states.double() @ rows.double().T
    assert torch.allclose(got.double(), wanted, atol=1e-4), (got - wanted).abs().max()
    rounded = (wanted.to(torch.bfloat16) - wanted).abs().max()
    assert rounded > 1e-3  # as bfloat16 would round them: it steps by 1/16 there


def test_batches_hold_like_lengths_within_the_token_budget() -> None:
    lengths = [3, 100, 95, 2000, 50, 49, 48, 3]

    batches = batches_by_length(lengths, size=2)

    # By hand: 2000 exceeds the budget alone; 95 >= 0.85 * 100; 48 would be the third row.
    assert batches == [[3], [1, 2], [4, 5], [6], [0, 7]]
    assert batches_by_length([], 4) == []
    assert [len(b) for b in batches_by_length([100] * 25, 64)] == [10, 10, 5]
