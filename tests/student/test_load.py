"""Weights from folders: what is warm, what is fresh, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.config.student import StudentConfig
from common.errors import ConfigError, StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.models.load import LoadedStudent, Plan, load_student
from student.models.reload import read_whole
from student.models.tiny import prepare_tiny, tiny_texts

Tiny = Callable[..., StudentConfig]
Pairs = Callable[[int], list[TrainingPair]]


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs
) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        shape = tiny("causal", family).tiny
        assert shape
        return prepare_tiny(root / family, shape, tiny_texts(make_pairs(9), task, "default"), 1)

    return folder


def load(task: TaskDefinition, folder: Path, architecture: str, **more: Any) -> LoadedStudent:
    config = StudentConfig.model_validate(
        {"architecture": architecture, "model": str(folder), **more}
    )
    return load_student(config, task, str(folder), Plan())


def without(source: Path, target: Path, part: str) -> Path:
    """A copy of a model folder whose weights lack all names that contain `part`."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert len(kept) < len(tensors)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_warm_start_copies_the_encoder_to_both_sides(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    source = load_file(folders("bert") / "model.safetensors")

    core = load(task, folders("bert"), "seq2seq", task_signal="decoder").core

    name = "encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(core.encoder.state_dict()[name], source[f"bert.{name}"])
    assert torch.equal(core.decoder.state_dict()[f"bert.{name}"], source[f"bert.{name}"])
    assert core.decoder.config.is_decoder
    embeddings = core.decoder.get_input_embeddings().weight
    assert core.decoder.get_output_embeddings().weight is embeddings


def test_cross_attention_starts_from_self_attention(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    layer = load(task, folders("bert"), "seq2seq").core.decoder.bert.encoder.layer[0]

    assert torch.equal(layer.crossattention.self.query.weight, layer.attention.self.query.weight)
    assert torch.equal(
        layer.crossattention.output.dense.weight, layer.attention.output.dense.weight
    )


def test_a_finished_warm_start_is_the_base_of_another_training(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    first = load(task, folders("bert"), "seq2seq")
    first.core.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)

    again = load(task, tmp_path, "seq2seq", dropout=0.4)

    assert not again.fresh
    rates = {p.p for p in again.core.modules() if isinstance(p, torch.nn.Dropout)}
    assert rates == {0.4}
    assert again.core.encoder.pooler is None
    found, wanted = again.core.state_dict(), first.core.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_warm_start_read_back_has_the_weights_of_its_folder_and_no_others(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    trained = load(task, folders("bert"), "seq2seq").core
    trained.save_pretrained(tmp_path)
    config = StudentConfig(architecture="seq2seq", model=str(tmp_path))

    read = read_whole(tmp_path, config, Plan())

    found, wanted = read.state_dict(), trained.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_cross_attention_counts_as_fresh_for_its_learning_rate(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    loaded = load(task, folders("bert"), "seq2seq")

    names = dict(loaded.module.named_parameters())
    assert loaded.fresh
    assert loaded.fresh <= names.keys()
    assert all("crossattention" in name or "cls.predictions" in name for name in loaded.fresh)


@pytest.mark.parametrize("signal", ["prefix", "decoder"])
def test_nothing_is_decoded_from_position_zero_of_a_warm_started_decoder(
    task: TaskDefinition, folders: Callable[[str], Path], signal: str
) -> None:
    warm = load(task, folders("bert"), "seq2seq", task_signal=signal)
    whole = load(task, folders("t5"), "seq2seq", task_signal=signal)

    assert warm.tokens.lead == warm.core.config.decoder_start_token_id
    assert whole.tokens.lead is None


def test_decoder_signal_starts_each_task_with_a_token_of_its_own(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    loaded = load(task, folders("t5"), "seq2seq", task_signal="decoder")

    assert loaded.tokens.predict != loaded.tokens.explain
    pieces = loaded.tokenizer.convert_ids_to_tokens([loaded.tokens.predict, loaded.tokens.explain])
    assert pieces == ["<|predict|>", "<|explain|>"]


@pytest.mark.parametrize(
    ("family", "architecture", "part"),
    [
        ("t5", "seq2seq", "encoder.block.1"),
        ("gpt2", "causal", "wte"),
        ("llama", "causal", "mlp.up_proj"),
        ("bert", "seq2seq", "word_embeddings"),
        ("bert", "classifier", "layer.0.attention"),
    ],
)
def test_missing_weights_are_refused_unless_allowed(
    task: TaskDefinition,
    folders: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    architecture: str,
    part: str,
) -> None:
    damaged = without(folders(family), tmp_path / "m", part)

    with pytest.raises(StudentError, match=r"lacks \d+ weights.*would start random"):
        load(task, damaged, architecture)
    assert load(task, damaged, architecture, allow_fresh_weights=True).fresh


def test_classifier_head_is_fresh_by_nature_and_named_by_the_task(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    loaded = load(task, folders("bert"), "classifier")

    assert loaded.core.config.id2label == dict(enumerate(task.label_names))
    assert any("classifier" in name for name in loaded.fresh)


def test_head_with_the_same_labels_in_another_order_is_read_by_name(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded = load(task, folders("bert"), "classifier")
    turned = ["Positive", "Negative", "Neutral"]
    loaded.core.config.id2label = dict(enumerate(turned))
    loaded.core.config.label2id = {name: i for i, name in enumerate(turned)}
    loaded.core.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)

    again = load(task, tmp_path, "classifier")

    assert getattr(again.module, "order", None) == [1, 2, 0]
    assert not again.fresh


def test_head_with_other_labels_is_refused(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders("bert"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {"0": "spam", "1": "ham", "2": "eggs"}
    config["label2id"] = {"spam": 0, "ham": 1, "eggs": 2}
    path.write_text(json.dumps(config))

    with pytest.raises(StudentError, match=r"knows the labels \['eggs', 'ham', 'spam'\]"):
        load(task, tmp_path / "m", "classifier")


@pytest.mark.parametrize("architecture", ["seq2seq", "causal", "classifier"])
def test_folder_that_is_no_model_is_one_sentence(
    task: TaskDefinition, tmp_path: Path, architecture: str
) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")

    with pytest.raises(StudentError, match=r"no tokenizer could be read|is no model folder"):
        load(task, tmp_path, architecture)


def test_causal_model_given_as_seq2seq_is_one_sentence(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    with pytest.raises(StudentError, match="could not be loaded as seq2seq"):
        load(task, folders("gpt2"), "seq2seq")


def test_damaged_weights_are_one_sentence(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders("gpt2"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(StudentError, match="could not be loaded as causal"):
        load(task, tmp_path / "m", "causal")


def test_dropout_of_the_config_reaches_the_model(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    core = load(task, folders("t5"), "seq2seq", dropout=0.33).core

    rates = {m.p for m in core.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.33}


def test_lora_targets_the_model_does_not_have_are_named(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    with pytest.raises(ConfigError, match=r"no layers named qkv; it has .*q_proj"):
        load(task, folders("llama"), "causal", lora={"targets": ["qkv"]})


def test_adapters_on_nothing_but_a_fresh_head_are_refused(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    with pytest.raises(
        ConfigError, match=r"targets: \['classifier'\] names only layers that start"
    ):
        load(task, folders("bert"), "classifier", lora={"rank": 2, "targets": ["classifier"]})


def test_adapters_beside_fresh_frozen_weights_are_refused(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    with pytest.raises(StudentError, match="adapters would freeze at random"):
        load(task, folders("bert"), "seq2seq", lora={"rank": 2})


def test_adapters_beside_new_task_tokens_are_refused(
    task: TaskDefinition, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """A vocabulary without reserved pieces, as BART's: its two task tokens would stay random."""
    bare = shutil.copytree(folders("t5"), tmp_path / "m")
    for path in bare.glob("tokenizer*.json"):
        told = path.read_text()
        path.write_text(told.replace("<|predict|>", "<|one|>").replace("<|explain|>", "<|two|>"))
    lora = {"rank": 2}

    with pytest.raises(StudentError, match="no reserved tokens for task_signal: decoder") as caught:
        load(task, bare, "seq2seq", task_signal="decoder", lora=lora)

    assert "\n" not in str(caught.value)
    whole = load(task, bare, "seq2seq", task_signal="decoder")
    known = len(load(task, bare, "seq2seq").tokenizer)
    assert (whole.tokens.predict, whole.tokens.explain) == (known, known + 1)
    assert load(task, bare, "seq2seq", task_signal="prefix", lora=lora)
    assert load(task, folders("t5"), "seq2seq", task_signal="decoder", lora=lora)


def test_lora_trains_adapters_alone_on_the_layers_asked_for(
    task: TaskDefinition, folders: Callable[[str], Path]
) -> None:
    loaded = load(task, folders("llama"), "causal", lora={"rank": 2, "targets": ["q_proj"]})

    trained = [n for n, p in loaded.module.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2  # two layers, A and B
    assert all("lora_" in n and "q_proj" in n for n in trained)


def test_half_precision_file_is_trained_in_float32(
    task: TaskDefinition, shared_models: Path
) -> None:
    loaded = load(task, shared_models / "all-MiniLM-L6-v2", "seq2seq", task_signal="decoder")

    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert loaded.tokens.predict == loaded.tokenizer.convert_tokens_to_ids("[unused0]")
    assert loaded.tokens.end == loaded.tokenizer.sep_token_id
    count = sum(p.numel() for p in loaded.module.parameters())
    assert 48e6 < count < 50e6


def test_file_that_stores_a_tied_matrix_under_one_name_loads_whole(
    task: TaskDefinition, shared_models: Path
) -> None:
    assert not load(task, shared_models / "TinyStories-656K", "causal").fresh
