"""What a configuration may say, and what a wrong one is told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.config import load_config, validate_config
from common.config.data import FpbData
from common.config.student import TinyShape
from common.errors import ConfigError, InputError

MINIMAL = {
    "name": "x",
    "task": "sentiment",
    "data": {"kind": "fpb", "path": "fpb"},
}
BROKEN = {
    "name": "x",
    "task": "sentiment",
    "data": {"kind": "fpb", "agreement": 80, "agrement": 50},
    "teacher": {"kind": "cluade"},
    "student": {"architecture": "seq2seq", "model": "m", "lora": {"rnak": 3}},
    "trainin": {},
}


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_faults_are_told_at_once_with_what_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(BROKEN, "b.yaml")

    message = str(caught.value)
    assert "data.fpb.agreement: Input should be 50, 66, 75 or 100 (got 80)" in message
    assert "data.fpb.agrement: unknown key, did you mean 'agreement'?" in message
    assert "student.lora.rnak: unknown key, did you mean 'rank'?" in message
    assert "teacher: Input tag 'cluade'" in message
    assert "trainin: unknown key, did you mean 'training'?" in message


def test_overrides_change_single_values_and_enter_the_run_id(tmp_path: Path) -> None:
    path = written(tmp_path, "{name: x, task: sentiment, data: {kind: fpb, path: fpb}}")

    plain = load_config(path)
    changed = load_config(path, ["training.epochs=1", "seed=7"])

    assert (changed.training.epochs, changed.seed) == (1.0, 7)
    assert plain.run_id != changed.run_id
    assert plain.run_id == load_config(path).run_id


def test_paths_in_a_file_are_relative_to_it_and_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "{name: x, task: sentiment, data: {kind: fpb, path: fpb}}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    assert load_config(path).data == FpbData(kind="fpb", path=tmp_path / "fpb")
    overridden = load_config(path, ["data.path=fpb"])
    assert overridden.data == FpbData(kind="fpb", path=elsewhere / "fpb")


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, "{}")

    with pytest.raises(InputError, match=r"did you mean 'run\.yaml'\?"):
        load_config(tmp_path / "rum.yaml")


@pytest.mark.parametrize("override", ["epochs", "=3", "name.x=1", "training.epochs=[1"])
def test_an_override_that_is_no_assignment_is_refused(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, "{name: x, task: sentiment, data: {kind: fpb, path: fpb}}")

    with pytest.raises(ConfigError, match="override"):
        load_config(path, [override])


def test_quantized_weights_without_lora_are_refused() -> None:
    student = {"architecture": "causal", "model": "m", "quantization": "nf4"}

    with pytest.raises(ConfigError, match="add a `lora:` section"):
        validate_config({**MINIMAL, "student": student}, "q.yaml")


def test_training_on_teacher_labels_needs_a_teacher() -> None:
    student = {"architecture": "causal", "model": "m"}

    with pytest.raises(ConfigError, match="names no teacher"):
        validate_config({**MINIMAL, "student": student}, "t.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "training.rationale_weight=.inf",
        "training.learning_rate=.inf",
        "training.epochs=.inf",
        "training.min_improvement=.nan",
        "training.soft_labels={temperature: .inf}",
        "evaluation.usd_per_hour=.inf",
    ],
)
def test_a_number_without_an_end_is_refused(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, "{name: x, task: sentiment, data: {kind: fpb, path: fpb}}")

    with pytest.raises(ConfigError, match="should be a finite number"):
        load_config(path, [override])


@pytest.mark.parametrize("seed", [-1, 2**32, 99999999999999999])
@pytest.mark.parametrize("key", ["seed", "training.seed", "evaluation.seed", "data.split.seed"])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, key: str, seed: int) -> None:
    text = "{name: x, task: sentiment, data: {kind: fpb, path: fpb, split: {kind: random}}}"

    with pytest.raises(ConfigError, match=rf"seed: Input should be .* \(got {seed}\)"):
        load_config(written(tmp_path, text), [f"{key}={seed}"])


def test_seed_zero_of_a_training_is_a_seed_and_none_is_that_of_the_run(tmp_path: Path) -> None:
    student = "{architecture: causal, model: m}"
    text = f"{{name: x, task: sentiment, data: {{kind: fpb, path: fpb}}, student: {student}}}"
    path, gold = written(tmp_path, text), "training.labels=gold"

    _, zero = load_config(path, [gold, "training.seed=0"]).trained_systems["student"]
    _, unset = load_config(path, [gold, "seed=7"]).trained_systems["student"]

    assert (zero.seed, unset.seed) == (0, 7)


@pytest.mark.parametrize(
    ("family", "hidden", "heads", "wanted"),
    [
        ("gpt2", 16, 3, "a multiple of heads"),
        ("bert", 16, 32, "a multiple of heads"),
        ("llama", 15, 5, r"a multiple of 2 \* heads"),
        ("t5", 16, 17, "at least heads"),
    ],
)
def test_a_tiny_width_that_its_heads_cannot_share_is_refused(
    family: str, hidden: int, heads: int, wanted: str
) -> None:
    shape = {"family": family, "hidden": hidden, "heads": heads}

    with pytest.raises(ValidationError, match=rf"hidden {hidden} .* heads: {heads} .* {wanted}:"):
        TinyShape.model_validate(shape)


def test_heads_of_a_tiny_t5_are_as_wide_as_they_like() -> None:
    assert TinyShape(family="t5", hidden=16, heads=3).heads == 3


@pytest.mark.parametrize("targets", [[], "linear", [1], None])
def test_adapters_on_no_layer_that_could_be_are_refused(targets: object) -> None:
    student = {"architecture": "causal", "model": "m", "lora": {"targets": targets}}

    with pytest.raises(ConfigError, match=r"lora.targets: expected all-linear, or the names of"):
        validate_config({**MINIMAL, "student": student, "training": {"labels": "gold"}}, "l.yaml")


def test_a_students_folder_is_made_absolute_and_a_hub_name_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers stand in another folder than whoever submits."""
    for folder in ("beside/a", "here/b", "here/owner/c"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    text = (
        "{name: x, task: sentiment, data: {kind: fpb, path: fpb}, training: {labels: gold},"
        " student: {architecture: causal, model: a, tokenizer: owner/c},"
        " baselines: {one: {kind: student, training: {labels: gold},"
        " student: {architecture: causal, model: owner/name}}}}"
    )
    path = written(tmp_path / "beside", text)

    student, _ = load_config(path).trained_systems["student"]
    one, _ = load_config(path).trained_systems["one"]
    turned = load_config(path, ["student.model=./b", "baselines.one.student.model=owner/other"])

    assert student.model == str(tmp_path / "beside" / "a")
    assert student.tokenizer == str(tmp_path / "here" / "owner" / "c")
    assert one.model == "owner/name"
    assert turned.trained_systems["student"][0].model == str(tmp_path / "here" / "b")
    assert turned.trained_systems["one"][0].model == "owner/other"
