"""The student's own parts do what torch's do: dropout, embeddings, log-probabilities of tokens."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedModel,
    T5Config,
)
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm
from transformers.pytorch_utils import Conv1D

from student.models import head as head_module
from student.models import token_logs as token_logs_module
from student.models.attention import QUICK
from student.models.conv1d import QuickConv1D
from student.models.dropout import QuickDropout, dropped
from student.models.embedding import RowEmbedding
from student.models.fuse import quicken
from student.models.head import OutputHead
from student.models.t5_parts import QuickT5FeedForward, QuickT5LayerNorm
from student.models.token_logs import token_logs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_its_rate_and_scales_what_it_keeps(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 400_001  # no multiple of the four draws of one random word
    states = torch.ones(count, dtype=dtype)

    found = dropped(states, p, training=True)

    kept = found != 0
    spread = (p * (1 - p) / count) ** 0.5
    assert abs(float(kept.float().mean()) - (1 - p)) < 4 * spread
    assert found.dtype == dtype
    assert set(found[kept].tolist()) == {float(torch.tensor(1 / (1 - p), dtype=dtype))}


def test_neighbours_drop_out_independently() -> None:
    torch.manual_seed(1)
    gone = dropped(torch.ones(400_000), 0.5, training=True) == 0

    for distance in (1, 2, 3, 4, 8, 512):
        both = float((gone[:-distance] & gone[distance:]).float().mean())
        assert abs(both - 0.25) < 0.005, distance


def test_dropout_is_that_of_the_saved_random_state_and_another_each_time() -> None:
    states = torch.ones(64, 64)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = dropped(states, 0.3, True), dropped(states, 0.3, True)

    torch.set_rng_state(before)
    again = dropped(states, 0.3, True)

    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_dropout_gradient_falls_where_the_value_passed() -> None:
    states = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)

    found = QuickDropout(0.25)(states)
    found.sum().backward()

    assert states.grad is not None
    assert torch.equal(states.grad, (found != 0).double() / 0.75)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_all_is_torchs(p: float) -> None:
    states = torch.randn(5, 3)

    found = dropped(states, p, training=True)

    assert torch.equal(found, states * (1 - p))
    assert torch.equal(QuickDropout(0.5).eval()(states), states)


class Tied(nn.Module):
    """Reads a table twice and answers with it."""

    def __init__(self, kind: type[nn.Embedding], head: type[nn.Linear], padding: int | None):
        super().__init__()
        torch.manual_seed(3)
        self.table = kind(11, 4, padding_idx=padding).double()
        self.head = head(4, 11, bias=False).double()
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.table(ids) * self.table(ids.flip(0)))
        return scores.tanh().sum()


@pytest.mark.parametrize("head", [nn.Linear, OutputHead])
@pytest.mark.parametrize("padding", [None, 2])
def test_gradient_of_read_rows_equals_that_of_the_whole_table(
    padding: int | None, head: type[nn.Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "_ROWS", 4)  # of eleven
    plain, quick = Tied(nn.Embedding, nn.Linear, padding), Tied(RowEmbedding, head, padding)
    for ids in (torch.tensor([[1, 2, 2], [9, 1, 0]]), torch.tensor([[7, 7, 2]])):  # accumulated
        plain(ids).backward()
        quick(ids).backward()

    wanted, found = plain.table.weight.grad, quick.table.weight.grad

    assert wanted is not None
    assert found is not None
    assert torch.allclose(found, wanted, atol=1e-12, rtol=0)


def test_a_table_alone_has_gradients_too_and_a_frozen_one_has_none() -> None:
    free, frozen = RowEmbedding(5, 2), RowEmbedding(5, 2)
    frozen.weight.requires_grad_(False)
    ids = torch.tensor([3, 3, 1])

    free(ids).sum().backward()

    assert free.weight.grad is not None
    assert free.weight.grad[:, 0].tolist() == [0, 1, 0, 2, 0]
    assert not frozen(ids).requires_grad


def test_head_under_autocast_is_that_of_torch_and_follows_its_weights() -> None:
    torch.manual_seed(8)
    plain, quick = nn.Linear(16, 50, bias=False), OutputHead(16, 50, bias=False)
    quick.load_state_dict(plain.state_dict())
    steps = [torch.optim.AdamW(m.parameters(), lr=0.1, fused=True) for m in (plain, quick)]
    for step in range(2):  # the second finds other weights than the first cast
        states = torch.randn(3, 7, 16)
        results = []
        for part, optimizer in zip((plain, quick), steps, strict=True):
            given = states.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = part(given)
            logits.float().square().sum().backward()
            assert part.weight.grad is not None
            results.append((logits.detach(), given.grad, part.weight.grad.clone()))
            optimizer.step()
            optimizer.zero_grad()
            part.weight.data.copy_(plain.weight.data)  # Adam magnifies what rounding differs in
            part.train()
        for mine, library in zip(results[1], results[0], strict=True):
            assert mine.dtype == library.dtype
            assert torch.allclose(mine, library, rtol=2**-6, atol=2**-6), step


def test_a_frozen_head_is_torchs_own() -> None:
    head = OutputHead(4, 9, bias=False)
    head.weight.requires_grad_(False)
    states = torch.randn(2, 4, requires_grad=True)

    head(states).sum().backward()

    assert head.weight.grad is None
    assert torch.allclose(states.grad, head.weight.sum(0).expand(2, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [False, True])
def test_linear_layer_of_gpt2_is_that_of_the_library(half: bool) -> None:
    torch.manual_seed(4)
    part = Conv1D(12, 8)  # type: ignore[no-untyped-call]
    nn.init.normal_(part.bias)
    results = []
    for kind in (Conv1D, QuickConv1D):
        part.__class__ = kind
        part.zero_grad()
        torch.manual_seed(5)
        given = torch.randn(2, 3, 8, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = part(given)
        found.float().square().sum().backward()
        results.append((found.detach(), given.grad, part.weight.grad, part.bias.grad))

    for mine, library in zip(results[1], results[0], strict=True):
        assert mine.dtype == library.dtype
        exact, rough = (2**-6, 2**-5) if half else (1e-5, 1e-6)
        assert torch.allclose(mine, library, rtol=exact, atol=rough)


def test_token_logs_and_their_gradients_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_logs_module, "_ELEMENTS", 30)  # three rows at a time, and a rest
    logits = torch.randn(7, 10, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([0, 9, 3, 3, 5, 1, 2])

    found = token_logs(logits, wanted)

    assert torch.allclose(found, torch.log_softmax(logits, -1)[range(7), wanted], atol=1e-12)
    assert torch.autograd.gradcheck(token_logs, (logits, wanted))
    assert token_logs(logits[:0], wanted[:0]).shape == (0,)


def test_logits_in_half_precision_are_summed_in_float32() -> None:
    torch.manual_seed(2)
    half = torch.randn(5, 3000).to(torch.bfloat16).requires_grad_()
    whole = half.detach().float().requires_grad_()
    wanted, weights = torch.arange(5), torch.rand(5)

    found = token_logs(half, wanted)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    expected = torch.log_softmax(whole, -1)[range(5), wanted]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]

    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert half.grad is not None
    assert whole.grad is not None
    assert torch.allclose(half.grad.float(), whole.grad, rtol=2**-8, atol=1e-9)


def norms() -> tuple[T5LayerNorm, QuickT5LayerNorm]:
    plain = T5LayerNorm(24)  # type: ignore[no-untyped-call]
    quick = QuickT5LayerNorm(24)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for part in (plain, quick):
            part.weight.copy_(torch.linspace(0.5, 1.5, 24))
    return plain, quick


def test_norm_and_its_gradients_are_those_of_the_library() -> None:
    torch.manual_seed(4)
    results = []
    states, weight = torch.randn(3, 5, 24), torch.randn(3, 5, 24)
    for part in norms():
        given = states.clone().requires_grad_()
        found = part(given)
        (found * weight).sum().backward()
        results.append((found.detach(), given.grad, part.weight.grad))

    for mine, library in zip(results[1], results[0], strict=True):
        assert torch.allclose(mine, library, atol=1e-5)
    quick = norms()[1].double()
    given = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quick, (given,))


def test_norm_under_autocast_gives_what_each_reader_would_have_cast() -> None:
    torch.manual_seed(4)
    states = torch.randn(3, 5, 24)
    plain, quick = norms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, library = quick(states), plain(states)

    assert found.dtype == torch.bfloat16
    assert library.dtype == torch.float32
    assert torch.allclose(found.float(), library, rtol=2**-7)


@pytest.mark.parametrize("half", [False, True])
def test_feed_forward_is_that_of_the_library(half: bool) -> None:
    config = T5Config(d_model=8, d_ff=16, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    torch.manual_seed(4)
    part = T5DenseGatedActDense(config)
    states = torch.randn(2, 3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        library = part(states)
        part.__class__ = QuickT5FeedForward
        found = part(states)

    assert found.dtype == library.dtype
    assert torch.equal(found, library)


FAMILIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "gpt2": (
        AutoModelForCausalLM,
        "attn_pdrop",
        {"n_layer": 2, "n_embd": 16, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        "dropout_rate",
        {"num_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2},
    ),
    "bert": (
        AutoModelForMaskedLM,
        "attention_probs_dropout_prob",
        {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2,
         "intermediate_size": 24, "hidden_dropout_prob": 0.0},
    ),
}  # fmt: skip


def tiny(family: str, attention: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(6)
    maker, rate, shape = FAMILIES[family]
    config = AutoConfig.for_model(
        family, vocab_size=30, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        decoder_start_token_id=0, **shape, **{rate: dropout},
    )  # fmt: skip
    return maker.from_config(config, attn_implementation=attention)


@pytest.mark.parametrize("family", FAMILIES)
def test_quick_attention_is_eager_attention_and_stays_out_of_saved_configs(family: str) -> None:
    ids, seen = torch.randint(1, 30, (2, 7)), torch.ones(2, 7).long()
    seen[0, :3] = 0
    given = {"input_ids": ids, "attention_mask": seen}
    if family == "t5":
        given |= {"decoder_input_ids": ids, "decoder_attention_mask": seen}
    plain, quick = tiny(family, "eager").eval(), tiny(family, "eager", dropout=0.5).eval()

    quicken(quick)

    parts = [m for m in quick.modules() if isinstance(m, PreTrainedModel)]
    assert {m.config._attn_implementation for m in parts} == {QUICK}
    assert QUICK not in quick.config.to_json_string()
    found, wanted = (m(**given).logits for m in (quick, plain))
    assert torch.allclose(found[seen > 0], wanted[seen > 0], atol=1e-6)
    quick.train()
    for part in quick.modules():
        if family == "t5" and isinstance(part, QuickDropout):
            part.p = 0.0  # one rate for all there: only that of the attention is looked at
    first, second = (quick(**given).logits for _ in range(2))
    assert not torch.allclose(first, second)


def test_quick_attention_reaches_both_sides_of_a_warm_start() -> None:
    whole = tiny("bert", "eager", dropout=0.5).config
    decoder = copy.deepcopy(whole)
    decoder.is_decoder = decoder.add_cross_attention = True
    joint = EncoderDecoderConfig.from_encoder_decoder_configs(whole, decoder)
    sides: list[tuple[Any, Any]] = [(AutoModel, whole), (AutoModelForCausalLM, decoder)]
    model: Any = EncoderDecoderModel(
        joint, *(m.from_config(shape, attn_implementation="eager") for m, shape in sides)
    )

    quicken(model)

    attentions = [m for m in model.modules() if type(m).__name__.endswith("SelfAttention")]
    attentions += [m for m in model.modules() if type(m).__name__.endswith("CrossAttention")]
    assert len(attentions) == 6
    assert {m.config._attn_implementation for m in attentions} == {QUICK}


def test_other_ways_of_attention_are_left_alone() -> None:
    model = tiny("gpt2", "sdpa", dropout=0.5)

    quicken(model)

    assert model.config._attn_implementation == "sdpa"


def test_the_output_head_of_a_language_model_is_the_quick_one_and_stays_tied() -> None:
    model = tiny("gpt2", "eager")

    quicken(model)

    assert type(model.lm_head) is OutputHead
    assert model.lm_head.weight is model.transformer.wte.weight
    assert type(model.transformer.h[0].mlp.c_fc) is QuickConv1D


def test_quickened_parts_keep_names_and_weights() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.2), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    quicken(model)

    assert [type(part).__name__ for part in model] == ["RowEmbedding", "QuickDropout", "Linear"]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
