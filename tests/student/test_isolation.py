"""Causal models of other families: packed rows are exact, or the model is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.config.student import StudentConfig
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student import preflight
from student.encoding import Encoder, encode_pairs
from student.models import isolation
from student.models.isolation import require_isolated_branches
from student.models.load import LoadedStudent, Plan, load_student
from student.models.reload import read_whole
from student.models.tiny import prepare_tiny, tiny_texts
from student.steps import Objective, batch_totals, micro_batch_terms

Make = Callable[..., Path]
BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48}  # fmt: skip
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
          "new_decoder_architecture": False, "multi_query": False}  # fmt: skip
NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 1024}
HYBRID = {**BASE, "layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 16,
          "mamba_d_state": 4, "num_local_experts": 0, "shared_intermediate_size": 48}  # fmt: skip
MPT = {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 1024}
LFM2 = {**BASE, "layer_types": ["conv", "full_attention"]}
DOUBTFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "mask ignored by some layers": ("granitemoehybrid", HYBRID),
    "convolution": ("lfm2", LFM2),
    "distances along the row": ("mpt", MPT),
    "raises": ("falcon", {**FALCON, "alibi": True}),
}


def random_model(kind: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """With weights large enough for every layer to have a say."""
    torch.manual_seed(0)
    ids = {"vocab_size": 500, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    config = AutoConfig.for_model(kind, **{**ids, **settings})
    config._attn_implementation = "sdpa" if kind == "mixtral" else "eager"
    loader: Any = AutoModelForCausalLM
    model = loader.from_config(config, dtype=dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def make(
    tmp_path: Path,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> Make:
    """A folder of a random model of any family, with a tiny student's tokenizer."""

    def make(kind: str, settings: dict[str, Any]) -> Path:
        shape = tiny("causal", "gpt2").tiny
        assert shape
        texts = tiny_texts(make_pairs(9), task, "default")
        words = prepare_tiny(tmp_path / "words", shape, texts, seed=1)
        folder = tmp_path / kind
        random_model(kind, settings).save_pretrained(folder)
        for path in words.glob("*token*.json"):
            shutil.copy(path, folder)
        return folder

    return make


def load(
    task: TaskDefinition, folder: Path, row_tokens: int = 256, **more: Any
) -> tuple[LoadedStudent, Encoder]:
    told = {"architecture": "causal", "model": str(folder), "max_rationale_tokens": 40}
    config = StudentConfig.model_validate({**told, "max_input_tokens": 100, **more})
    loaded = load_student(config, task, str(folder), Plan(row_tokens=row_tokens))
    return loaded, Encoder(config, task, loaded.tokenizer, loaded.tokens)


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_family_whose_branches_see_each_other_is_refused_when_loaded(
    task: TaskDefinition, make: Make, case: str
) -> None:
    kind, settings = DOUBTFUL[case]
    folder = make(kind, settings)
    config = StudentConfig(architecture="causal", model=str(folder))

    with pytest.raises(StudentError, match=f"{folder}' is of the type {kind} and .*such as GPT-2"):
        load(task, folder)
    with pytest.raises(StudentError, match="label and rationale stand in one row") as caught:
        read_whole(folder, config, Plan())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", DOUBTFUL)
def test_such_a_family_is_found_out_without_being_known(
    monkeypatch: pytest.MonkeyPatch, case: str, dtype: torch.dtype
) -> None:
    kind, settings = DOUBTFUL[case]
    monkeypatch.setitem(preflight.UNFIT, "causal", set())

    with pytest.raises(StudentError, match=r"it does not keep them apart there|it fails there"):
        require_isolated_branches("m", random_model(kind, settings, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", BASE),
        ("mixtral", {**BASE, "num_local_experts": 8, "num_hidden_layers": 24}),
        ("falcon", {**FALCON, "alibi": False}),
        ("granitemoehybrid", {**HYBRID, "layer_types": ["attention", "attention"]}),
    ],
)
def test_rounding_is_not_taken_for_a_leak(
    kind: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    require_isolated_branches("m", random_model(kind, settings, dtype))


def test_a_family_that_passes_has_the_loss_of_separate_passes(
    task: TaskDefinition, make: Make, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    loaded, encoder = load(task, make("mistral", BASE))
    examples = encode_pairs(encoder, make_pairs(5))
    loaded.module.eval()
    with torch.no_grad():
        whole = micro_batch_terms(loaded.module, examples, Objective(), torch.device("cpu"))
        alone = torch.zeros((), dtype=torch.float64)
        for example in examples:
            for branch in example.branches:
                ids = torch.tensor([[*example.contexts[0], *branch.inputs]])
                logs = torch.log_softmax(loaded.core(input_ids=ids).logits[0].double(), -1)
                rows = logs[len(example.contexts[0]) :]
                told = [(i, t) for i, t in enumerate(branch.targets) if t != -100]
                alone -= example.weight * sum(rows[i, t] for i, t in told)

    assert batch_totals(examples).rationale > 0
    assert float(whole.label + whole.rationale) == pytest.approx(float(alone), rel=1e-5)


def test_families_known_to_be_exact_are_not_run_at_all(
    task: TaskDefinition, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_differences", lambda _: pytest.fail("it was run"))

    assert load(task, make("qwen2", BASE))


def test_the_check_leaves_no_trace() -> None:
    model = random_model("mistral", {**BASE, "attention_dropout": 0.5}).train()
    model.model.layers[0].eval()
    modes = [part.training for part in model.modules()]
    seen = []

    def watch(part: torch.nn.Module, *_: Any) -> None:
        seen.append(part.training)
        torch.rand(1)

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(watch)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)

    require_isolated_branches("m", model)

    assert torch.equal(torch.rand(3), expected)
    assert seen
    assert not any(seen)
    assert [part.training for part in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not model.lm_head._forward_pre_hooks


def test_four_bit_weights_still_learn_after_the_check(
    task: TaskDefinition, make: Make, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    loaded, encoder = load(task, make("mistral", BASE), lora={"rank": 2}, quantization="nf4")
    examples = encode_pairs(encoder, make_pairs(3))

    terms = micro_batch_terms(loaded.module, examples, Objective(), torch.device("cpu"))
    (terms.label + terms.rationale).backward()  # type: ignore[no-untyped-call]

    learnt = [p for n, p in loaded.module.named_parameters() if "lora_B" in n]
    assert learnt
    assert all(p.grad is not None and bool(p.grad.any()) for p in learnt)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", {**BASE, "sliding_window": 160}),
        ("gpt_neo", {**NEO, "attention_types": [[["global", "local"], 1]], "window_size": 160}),
        ("qwen2", {**BASE, "use_sliding_window": True, "sliding_window": 160,
                   "max_window_layers": 1}),
    ],
)  # fmt: skip
def test_rows_longer_than_a_models_window_are_refused(
    task: TaskDefinition, make: Make, kind: str, settings: dict[str, Any]
) -> None:
    folder = make(kind, settings)

    with pytest.raises(StudentError, match=r"^student.max_input_tokens: 100 tokens .* over 160 "):
        load(task, folder, row_tokens=160, max_rationale_tokens=90)
    with pytest.raises(StudentError, match=r"^training.row_tokens: 161 tokens .* at most 160\.$"):
        load(task, folder, row_tokens=161)
    assert load(task, folder, row_tokens=160)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", {**BASE, "use_sliding_window": False, "sliding_window": 16}),
        ("gpt_neo", {**NEO, "attention_types": [[["global"], 2]], "window_size": 16}),
        ("gemma3_text", {**BASE, "sliding_window": 16, "head_dim": 8,
                         "layer_types": ["full_attention", "full_attention"]}),
    ],
)  # fmt: skip
def test_a_window_that_no_layer_uses_refuses_nothing(
    task: TaskDefinition, make: Make, kind: str, settings: dict[str, Any]
) -> None:
    assert load(task, make(kind, settings))
