"""Models whose tables end: what would run over them is refused with both numbers, not in use."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from common.config.student import StudentConfig, TinyShape
from common.errors import ConfigError, FinstillError, StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Encoder
from student.generation import Explainer
from student.models.load import LoadedStudent, Plan, load_student
from student.models.tiny import prepare_tiny, tiny_texts

SMALL = {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "vocabulary": 400}
MOST = re.compile(r"has learnt (\d+); expected at most (\d+)")
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    make_pairs: Callable[[int], list[TrainingPair]],
) -> Folder:
    """Tiny folders by family; those of `positions` have 140 of them."""
    root = tmp_path_factory.mktemp("limits")
    texts = tiny_texts(make_pairs(9), task, "default")

    def make(family: str) -> Path:
        shape = TinyShape.model_validate({"family": family, **SMALL})
        return prepare_tiny(root / family, shape, texts, 1)

    def with_positions(kind: str) -> Path:
        target = root / f"short-{kind}"
        if not target.exists():
            tokenizer = AutoTokenizer.from_pretrained(make("bert"))
            _short(kind, len(tokenizer)).save_pretrained(target)
            tokenizer.save_pretrained(target)
        return target

    return lambda name: with_positions(name[6:]) if name.startswith("short-") else make(name)


def _short(kind: str, words: int) -> Any:
    causal: Any = AutoModelForCausalLM
    both: Any = AutoModelForSeq2SeqLM
    masked: Any = AutoModelForMaskedLM
    ids = {"vocab_size": words, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1}
    plain = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 140}  # fmt: skip
    match kind:
        case "gpt2":
            shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 140}
            return causal.from_config(AutoConfig.for_model("gpt2", **shape, **ids))
        case "llama":
            return causal.from_config(AutoConfig.for_model("llama", **plain, **ids))
        case "bart":
            sides = {
                f"{side}_{key}": value
                for side in ("encoder", "decoder")
                for key, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()
            }
            whole = {"d_model": 16, "max_position_embeddings": 140, "decoder_start_token_id": 1}
            config = AutoConfig.for_model("bart", **whole, **sides, **ids)
            return both.from_config(config)
        case _:
            return masked.from_config(AutoConfig.for_model(kind, **plain, **ids))


def load(task: TaskDefinition, source: Path, architecture: str, **more: Any) -> LoadedStudent:
    config = StudentConfig.model_validate(
        {"architecture": architecture, "model": str(source), **more}
    )
    return load_student(config, task, str(source), Plan())


@pytest.mark.parametrize(
    ("kind", "architecture", "learnt"),
    [
        ("short-gpt2", "causal", 140),
        ("short-bert", "classifier", 140),
        ("short-roberta", "classifier", 139),  # one row up to the padding's is never used
        ("short-bert", "seq2seq", 140),
        ("short-bart", "seq2seq", 140),
    ],
)
def test_the_longest_text_that_is_accepted_works_and_a_longer_one_is_refused_with_both_numbers(
    task: TaskDefinition, folder: Folder, kind: str, architecture: str, learnt: int
) -> None:
    source, rest = folder(kind), {"max_rationale_tokens": 40}

    with pytest.raises(StudentError, match="max_input_tokens: 999 tokens") as caught:
        load(task, source, architecture, max_input_tokens=999, **rest)
    found = MOST.search(str(caught.value))
    assert found
    assert int(found[1]) == learnt
    most = int(found[2])
    with pytest.raises(StudentError, match=f"{most + 1} tokens.*has learnt {learnt}"):
        load(task, source, architecture, max_input_tokens=most + 1, **rest)

    loaded = load(task, source, architecture, max_input_tokens=most, **rest)
    told = {"architecture": architecture, "model": str(source), "max_input_tokens": most}
    config = StudentConfig.model_validate({**told, **rest})
    encoder = Encoder(config, task, loaded.tokenizer, loaded.tokens)
    loaded.module.eval()
    long = "Sales rose. " * 200
    (context,) = encoder.text_contexts([long])
    assert len(context) in (most - 1, most)  # a causal student's text has no end
    if architecture == "classifier":
        loaded.core(input_ids=torch.tensor([context]))
    else:
        Explainer(loaded, torch.device("cpu"), 40).explain([encoder.explain_inputs(long)], 1)


@pytest.mark.parametrize(
    ("kind", "architecture", "learnt"),
    [
        ("short-gpt2", "causal", 140),
        ("short-bert", "classifier", 140),
        ("short-roberta", "classifier", 139),
        ("short-bart", "seq2seq", 140),
    ],
)
def test_a_text_one_token_longer_than_the_positions_would_break(
    task: TaskDefinition, folder: Folder, kind: str, architecture: str, learnt: int
) -> None:
    core = load(task, folder(kind), architecture, max_input_tokens=40, max_rationale_tokens=40).core

    core(input_ids=torch.full((1, learnt), 7))
    with pytest.raises((IndexError, RuntimeError)):
        core(input_ids=torch.full((1, learnt + 1), 7))


def test_rationales_longer_than_a_decoder_has_positions_are_refused(
    task: TaskDefinition, folder: Folder
) -> None:
    rest = {"max_input_tokens": 100}

    # one position holds the token that starts a decoding, two that of an encoder's copy
    with pytest.raises(StudentError, match=r"max_rationale_tokens: 140 .* at most 139"):
        load(task, folder("short-bart"), "seq2seq", max_rationale_tokens=140, **rest)
    with pytest.raises(StudentError, match=r"max_rationale_tokens: 139 .* at most 138"):
        load(task, folder("short-bert"), "seq2seq", max_rationale_tokens=139, **rest)
    assert load(task, folder("short-bart"), "seq2seq", max_rationale_tokens=139, **rest)


@pytest.mark.parametrize(("kind", "architecture"), [("short-llama", "causal"), ("t5", "seq2seq")])
def test_positions_that_no_table_holds_do_not_end(
    task: TaskDefinition, folder: Folder, kind: str, architecture: str
) -> None:
    assert load(task, folder(kind), architecture, max_input_tokens=5000)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    task: TaskDefinition, folder: Folder, tmp_path: Path
) -> None:
    larger = AutoTokenizer.from_pretrained(folder("gpt2"))
    known = len(larger)
    larger.add_tokens(["<|one more|>"])
    larger.save_pretrained(tmp_path)

    with pytest.raises(
        StudentError, match=rf"student.tokenizer: .* up to {known}, .* only {known} embeddings"
    ):
        load(task, folder("gpt2"), "causal", tokenizer=str(tmp_path))
    assert load(task, folder("gpt2"), "causal", tokenizer=str(folder("gpt2")))


def test_a_missing_folder_is_told_as_one_and_not_as_a_missing_tokenizer(
    task: TaskDefinition, tmp_path: Path
) -> None:
    with pytest.raises(StudentError, match="nosuch' is no model folder or reachable hub name"):
        load(task, tmp_path / "nosuch", "causal")


@pytest.mark.parametrize("told", ["{", "[]", '{"model_type": "nosuch"}', None])
def test_a_broken_config_is_told_as_one_and_not_as_a_missing_tokenizer(
    task: TaskDefinition, folder: Folder, tmp_path: Path, told: str | None
) -> None:
    shutil.copytree(folder("gpt2"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(told or json.dumps({**json.loads(path.read_text()), "n_embd": "wide"}))

    with pytest.raises(StudentError, match="is no model folder or reachable hub name") as caught:
        load(task, tmp_path / "m", "causal")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "lora", "sentence"),
    [
        ("llama", {"rank": 2, "targets": ["input_layernorm"]}, "is a LlamaRMSNorm, which takes no"),
        ("llama", {"rank": 2, "targets": ["layers"]}, "is a ModuleList, which takes no adapter"),
        ("llama", {"rank": 2, "targets": ["qkv"]}, "no layers named qkv; it has .*q_proj"),
        ("llama", {"rank": 17}, "17 is more than .* 16 by 16; expected at most 16"),
        ("llama", {"rank": 100_000_000}, "100000000 is more than a layer it is for can use"),
        ("gpt2", {"rank": 17, "targets": ["c_attn"]}, "c_attn is 16 by 48; expected at most 16"),
    ],
)
def test_adapters_that_the_layers_cannot_take_are_one_sentence(
    task: TaskDefinition, folder: Folder, kind: str, lora: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(task, folder(kind), "causal", lora=lora)
    assert "\n" not in str(caught.value)


def test_a_classifiers_head_of_few_labels_does_not_bound_the_rank(
    task: TaskDefinition, folder: Folder
) -> None:
    assert load(task, folder("bert"), "classifier", lora={"rank": 16})


def test_what_only_peft_refuses_is_one_sentence_too(
    task: TaskDefinition, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise ValueError("no adapter\nfor this")

    monkeypatch.setattr("student.models.adapters.get_peft_model", refuses)

    with pytest.raises(FinstillError, match=r"peft cannot .* \(ValueError: no adapter\)"):
        load(task, folder("llama"), "causal", lora={"rank": 2})
