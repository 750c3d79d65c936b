"""A student that cannot be trained is refused from its config alone, without loading anything."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations import integration_utils

from common.config.student import StudentConfig, TinyShape
from common.config.training import TrainingConfig
from common.errors import ConfigError, MissingDependency, StudentError, UsageError
from common.records import TrainingPair
from common.task import PROJECT_ROOT, TaskDefinition
from student.models.load import Plan, load_student, load_weights
from student.models.tiny import prepare_tiny, tiny_texts
from student.preflight import FAMILIES, REPORTERS, require_trainable
from student.reporters import reporters

LIBRARY: Any = integration_utils
FOLDER = {"config.json": '{"model_type": "llama"}', "model.safetensors": "", "tokenizer.json": "{}"}


def check(
    task: TaskDefinition,
    architecture: str = "causal",
    *,
    name: str = "student",
    training: dict[str, Any] | None = None,
    here: bool = True,
    **student: Any,
) -> None:
    told = {"architecture": architecture, "model": "owner/name", **student}
    require_trainable(
        name,
        StudentConfig.model_validate(told),
        TrainingConfig.model_validate(training or {}),
        task,
        here,
    )


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in {**FOLDER, **files}.items():
        if text != "absent":
            (path / name).write_text(text)
    return path


def test_looking_ahead_loads_no_heavy_library() -> None:
    code = (
        "import sys, student.preflight\n"
        "sys.exit(', '.join({'torch', 'transformers', 'peft'} & set(sys.modules)) or 0)"
    )

    assert (
        subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0
    )


@pytest.mark.parametrize("here", [True, False])
def test_an_unknown_prompt_is_refused_wherever_the_student_is_trained(
    task: TaskDefinition, here: bool
) -> None:
    with pytest.raises(ConfigError, match=r"^student.prompt: .* 'fingtp', did you mean 'fingpt'"):
        check(task, prompt="fingtp", here=here)
    with pytest.raises(ConfigError, match=r"^baselines.twin.student.prompt: "):
        check(task, prompt="fingtp", here=here, name="twin")


def test_a_tiny_family_is_refused_exactly_where_loading_it_fails(
    task: TaskDefinition,
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    small = {"hidden": 8, "layers": 1, "heads": 2, "feed_forward": 8, "vocabulary": 300}
    texts = tiny_texts(make_pairs(3), task, "default")
    for family in ("t5", "gpt2", "llama", "bert"):
        shape = TinyShape.model_validate({"family": family, **small})
        source = str(prepare_tiny(tmp_path / family, shape, texts, 1))
        for architecture in ("seq2seq", "causal", "classifier"):
            told = {"architecture": architecture, "model": "tiny-random", "tiny": shape}
            config = StudentConfig.model_validate(told)
            fits = family in FAMILIES.get(architecture, {family})
            if fits:
                require_trainable("student", config, TrainingConfig(), task, here=False)
                assert load_student(config, task, source, Plan())
                continue
            with pytest.raises(ConfigError, match=f"'{family}' cannot be trained as"):
                require_trainable("student", config, TrainingConfig(), task, here=False)
            with pytest.raises(Exception, match="could not be loaded"):
                load_student(config, task, source, Plan())


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": "absent"}, "has no config.json; expected"),
        ({"config.json": "{"}, "config.json' cannot be read as JSON"),
        ({"config.json": "[]"}, "names no model_type"),
        ({"model.safetensors": "absent"}, "holds no weights; expected model.safetensors"),
        ({"config.json": '{"model_type": "t5"}'}, "of the type t5 and cannot be trained as causal"),
        (
            {"config.json": '{"model_type": "mamba2"}'},
            "type mamba2 and cannot be trained as causal",
        ),
        (
            {"config.json": '{"model_type": "gpt2", "n_positions": 300}'},
            "256 tokens and a rationale need 352 positions, .* has learnt 300",
        ),
        (
            {"config.json": '{"model_type": "llama", "hidden_size": 12}'},
            "lora.rank: 13 is more than the width of the model .*, which is 12",
        ),
    ],
)
def test_a_broken_folder_of_this_host_is_refused_and_of_another_it_is_not_looked_at(
    task: TaskDefinition, tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    broken = folder(tmp_path / "m", **files)

    with pytest.raises(UsageError, match=f"^student.*{sentence}") as caught:
        check(task, model=str(broken), lora={"rank": 13})
    assert "\n" not in str(caught.value)
    check(task, model=str(broken), lora={"rank": 13}, here=False)


def test_a_whole_folder_passes(task: TaskDefinition, tmp_path: Path) -> None:
    check(task, model=str(folder(tmp_path / "m")), tokenizer=str(tmp_path / "m"))


@pytest.mark.parametrize("model", ["/nosuch", "./nosuch", "~/nosuch/model", "one/two/three"])
def test_a_path_without_a_folder_is_refused_on_this_host_only(
    task: TaskDefinition, model: str
) -> None:
    with pytest.raises(UsageError, match=r"student.model: there is no folder '.*'; expected a"):
        check(task, model=model)
    with pytest.raises(UsageError, match=r"student.tokenizer: there is no folder"):
        check(task, tokenizer=model)
    check(task, model=model, here=False)


@pytest.mark.parametrize("model", ["gpt2", "google/flan-t5-small"])
def test_a_hub_name_passes(task: TaskDefinition, model: str) -> None:
    check(task, model=model)


def test_every_reporter_of_the_trainer_is_known_with_its_modules() -> None:
    assert REPORTERS.keys() == LIBRARY.INTEGRATION_TO_CALLBACK.keys()


def test_reporters_are_refused_before_anything_is_made(task: TaskDefinition) -> None:
    absent = next(n for n in ("wandb", "mlflow", "swanlab") if find_spec(n) is None)

    with pytest.raises(ConfigError, match="'wandbb' is no reporter, did you mean 'wandb'"):
        check(task, training={"report_to": ["wandbb"]}, here=False)
    with pytest.raises(MissingDependency, match=f"'{absent}' is not installed; pip install"):
        check(task, training={"report_to": [absent]})
    check(task, training={"report_to": [absent]}, here=False)
    check(task, training={"report_to": ["none"]})


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_no_reporter_ends_in_an_error_of_its_library(name: str, tmp_path: Path) -> None:
    with suppress(UsageError):
        reporters([name], tmp_path)


def test_a_reporter_that_fails_while_it_is_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("no address\nis set")

    monkeypatch.setitem(LIBRARY.INTEGRATION_TO_CALLBACK, "tensorboard", fails)

    with pytest.raises(ConfigError, match=r"not ready to report \(RuntimeError: no address\);"):
        reporters(["tensorboard"], tmp_path)


def test_positions_of_a_folder_are_told_as_the_loaded_model_tells_them(
    task: TaskDefinition, tmp_path: Path
) -> None:
    told = json.dumps({"model_type": "bert", "max_position_embeddings": 128})
    short = folder(tmp_path / "m", **{"config.json": told})

    with pytest.raises(ConfigError, match=r"256 tokens need 256 positions, .* has learnt 128"):
        check(task, "classifier", model=str(short))
    check(task, "classifier", model=str(short), max_input_tokens=128)


def test_what_a_tiny_shape_cannot_hold_is_refused_wherever_it_is_trained(
    task: TaskDefinition,
) -> None:
    def tiny(family: str, **more: Any) -> dict[str, Any]:
        shape = {"family": family, "hidden": 16, "heads": 2}
        return {"model": "tiny-random", "tiny": shape, "here": False, **more}

    with pytest.raises(ConfigError, match=r"need 1096 positions, .* has learnt 1024"):
        check(task, **tiny("gpt2", max_input_tokens=1000))
    check(task, **tiny("llama", max_input_tokens=1000))
    with pytest.raises(ConfigError, match=r"lora.rank: 17 is more than the width .* is 16"):
        check(task, **tiny("llama", lora={"rank": 17}))
    check(task, **tiny("llama", lora={"rank": 16}))


def test_an_encoder_decoder_whose_decoder_does_not_fit_is_refused_before_and_while_loading(
    task: TaskDefinition, tmp_path: Path
) -> None:
    told = json.dumps({"model_type": "prophetnet"})
    given: dict[str, Any] = {"architecture": "seq2seq", "model": str(tmp_path / "m")}
    folder(tmp_path / "m", **{"config.json": told})

    with pytest.raises(ConfigError, match="of the type prophetnet and cannot be trained as seq2"):
        check(task, **given)
    with pytest.raises(StudentError, match="models of the type prophetnet do not fit"):
        load_weights(StudentConfig.model_validate(given), task, given["model"], Plan())
