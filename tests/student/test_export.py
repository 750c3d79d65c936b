"""Exports answer like their student, or they do not stay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import InputError, StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.checkpoint import read_manifest
from student.export.check import BOUNDS, Bounds, answers, drift, require_faithful
from student.export.export import NUMBERS, export_student, merged_manifest
from student.export.weights import merged_model
from student.predict import Predictor
from student.runtime import read_export
from student.train import train_student

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
Students = Callable[..., Path]
LORA = {"lora": {"rank": 4}}
NF4 = {"lora": {"rank": 4}, "quantization": "nf4"}
KINDS: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("seq2seq", "t5", {"task_signal": "decoder"}, ["hf", "merged", "ctranslate2", "onnx"]),
    ("seq2seq", "t5", LORA, ["merged"]),
    ("seq2seq", "bert", {"task_signal": "decoder"}, ["onnx"]),
    ("causal", "gpt2", {}, ["ctranslate2"]),
    ("causal", "llama", LORA, ["hf", "ctranslate2"]),
    ("causal", "llama", NF4, ["hf", "merged"]),
    ("classifier", "bert", {}, ["onnx"]),
]
PACKAGES = {"ctranslate2": ["ctranslate2"], "onnx": ["onnx", "onnxruntime"]}


@pytest.fixture(scope="module")
def texts(make_pairs: Pairs) -> list[str]:
    return [pair.text for pair in make_pairs(12)]


@pytest.fixture(scope="module")
def student(
    tmp_path_factory: pytest.TempPathFactory, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs
) -> Students:
    """A trained student of a kind, each trained once."""
    made: dict[str, Path] = {}

    def get(architecture: str, family: str, more: dict[str, Any]) -> Path:
        key = f"{architecture} {family} {more}"
        if key not in made:
            folder = tmp_path_factory.mktemp("student")
            config = tiny(architecture, family, max_rationale_tokens=8, **more)
            training = TrainingConfig(
                epochs=2, batch_size=8, learning_rate=5e-3, seed=5, evaluations=0
            )
            pairs = make_pairs(30)
            train_student(
                student=config, training=training, task=task, train=pairs[:20],
                validation=pairs[20:], folder=folder, threads=1,
            )  # fmt: skip
            made[key] = folder / "model"
        return made[key]

    return get


def needs(form: str) -> None:
    for package in PACKAGES.get(form, []):
        pytest.importorskip(package, reason="needs the optional packages: finstill[export]")


@pytest.mark.parametrize(
    ("kind", "form"),
    [(kind[:3], form) for kind in KINDS for form in kind[3]],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else value,
)
def test_every_form_answers_like_its_student(
    kind: tuple[str, str, dict[str, Any]], form: Any, student: Students, texts: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    needs(form)
    folder = student(*kind)

    for numbers in NUMBERS[form]:
        record = export_student(folder, form, tmp_path / numbers, texts, numbers=numbers)

        own, other = Predictor.load(folder), Predictor.load(tmp_path / numbers)
        gap = (own.scores(texts).exp() - other.scores(texts).exp()).abs().max()
        assert gap < (0.05 if numbers == "int8" else 0.01 if numbers == "float16" else 1e-4)
        assert record.check["texts"] == 12
        assert read_export(tmp_path / numbers) == record
        exact = numbers == "float32"
        for one, another in zip(own.predict(texts), other.predict(texts), strict=True):
            near = pytest.approx(one.probabilities, abs=1e-4 if exact else 0.1)
            assert another.probabilities == near
        if exact and other.explains:
            assert other.rationales(texts[:5]) == own.rationales(texts[:5])


def test_branching_labels_are_scored_alike_by_every_runtime(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    needs("ctranslate2")
    needs("onnx")
    names = {"positive": "very good", "negative": "very bad", "neutral": "plain"}
    tree = task.model_dump() | {"lenient_reading": None}
    tree["labels"] = [{"name": name} for name in [*names.values(), "plain indeed"]]
    branching = TaskDefinition.model_validate(tree)
    pairs = [p.model_copy(update={"label": names[p.label]}) for p in make_pairs(24)]
    texts = [pair.text for pair in pairs]
    for architecture, family, forms in [
        ("seq2seq", "t5", ["ctranslate2", "onnx"]),
        ("causal", "gpt2", ["ctranslate2"]),
    ]:
        folder = tmp_path / family
        train_student(
            student=tiny(architecture, family), task=branching, train=pairs[:16],
            training=TrainingConfig(max_steps=3, batch_size=8, seed=5, evaluations=0),
            validation=pairs[16:], folder=folder, threads=1,
        )  # fmt: skip
        for form in forms:
            target = folder / form
            export_student(folder / "model", form, target, texts, numbers="float32")  # type: ignore[arg-type]

            own = Predictor.load(folder / "model").scores(texts)
            assert torch.allclose(Predictor.load(target).scores(texts), own, atol=1e-4)


def test_adapters_trained_on_4_bits_are_merged_into_the_values_those_stand_for(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = student("causal", "llama", NF4)
    trained = Predictor.load(folder)

    export_student(folder, "merged", tmp_path / "ours", texts)
    ours = Predictor.load(tmp_path / "ours")
    naive = Predictor.load(folder)
    module = naive._runtime.loaded.module  # type: ignore[attr-defined]
    assert isinstance(module.model, PeftModel)
    with pytest.warns(UserWarning, match="rounding errors"):
        module.model.merge_and_unload()  # peft's own way: into the 4-bit weights, in place

    def gap(other: Predictor) -> float:
        return float((other.scores(texts) - trained.scores(texts)).abs().mean())

    assert gap(ours) < 1e-5
    assert gap(naive) > 20 * gap(ours)
    assert not list((tmp_path / "ours").glob("adapter*"))


def test_merged_export_loads_without_this_project(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = student("causal", "llama", LORA)
    export_student(folder, "merged", tmp_path / "out", texts)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["use_cache"] is True
    assert "quantization_config" not in config
    assert model.dtype == torch.float32
    assert tokenizer("Sales rose.")["input_ids"]


def test_untied_t5_keeps_its_probabilities_through_ctranslate2(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    """Flan-T5 is untied, transformers 5 says tied: a converter that believes it scales the head."""
    needs("ctranslate2")
    import shutil

    from ctranslate2.converters import TransformersConverter

    folder = tmp_path / "untied"
    shutil.copytree(student("seq2seq", "t5", {"task_signal": "decoder"}), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale_decoder_outputs": False}))
    target = tmp_path / "out"

    export_student(folder, "ctranslate2", target, texts, numbers="float32")

    merged = tmp_path / "merged"
    export_student(folder, "merged", merged, texts)
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False
    TransformersConverter(str(folder)).convert(str(target / "ctranslate2"), force=True)
    start = json.loads((target / "ctranslate2" / "config.json").read_text())
    start["decoder_start_token"] = None
    (target / "ctranslate2" / "config.json").write_text(json.dumps(start))
    own, other = (answers(Predictor.load(place), texts) for place in (folder, target))
    found = drift(own, other, tie=1e-3)
    with pytest.raises(StudentError, match="does not answer like its student"):
        require_faithful(found, BOUNDS["float32"], "ctranslate2")


@pytest.mark.parametrize("form", ["merged", "ctranslate2", "onnx"])
def test_a_long_text_is_read_whole_by_every_form(
    form: Any, student: Students, texts: list[str], tmp_path: Path
) -> None:
    needs(form)
    folder = student("seq2seq", "t5", {"max_input_tokens": 2000})
    export_student(folder, form, tmp_path / "out", texts, numbers="float32", threads=1)
    own, other = Predictor.load(folder), Predictor.load(tmp_path / "out", threads=1)
    begin = " ".join(texts * 9)  # CTranslate2 would cut after 1,024 tokens
    long = [f"{begin} {end}" for end in (texts[0], texts[1] * 3)]

    assert min(len(own._runtime.encoder.text_contexts([text])[0]) for text in long) > 1100
    assert torch.allclose(own.scores(long), other.scores(long), atol=2e-5)
    assert not other.explains or other.rationales(long) == own.rationales(long)


def test_drift_beyond_the_bound_is_an_error_and_leaves_nothing(
    student: Students, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("onnx")
    monkeypatch.setitem(BOUNDS, "int8", Bounds(0.0, 0.0, 1e-9, 1e-9, 1.0))
    folder = student("seq2seq", "t5", {"task_signal": "decoder"})

    with pytest.raises(StudentError, match=r"probability .* \(at most 1e-09\)"):
        export_student(folder, "onnx", tmp_path / "out", texts)

    assert list(tmp_path.iterdir()) == []


def test_every_bound_is_held() -> None:
    good = {"texts": 9.0, "labels": 0.0, "probability": 0.0, "log_probability": 0.0}
    require_faithful({**good, "rationales": 1.0}, BOUNDS["int8"], "onnx")

    for name in ("labels", "probability", "log_probability"):
        for bad in (0.5, float("nan")):
            with pytest.raises(StudentError, match=name):
                require_faithful({**good, name: bad}, BOUNDS["int8"], "onnx")
    with pytest.raises(StudentError, match="rationales"):
        require_faithful({**good, "rationales": 0.1}, BOUNDS["int8"], "ctranslate2")
    with pytest.raises(StudentError, match="like its student on 9 training texts: labels"):
        require_faithful({**good, "labels": 0.5}, BOUNDS["int8"], "onnx", "training texts")


def test_forms_that_do_not_fit_and_folders_that_are_taken_are_refused(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    causal = student("causal", "gpt2", {})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")

    with pytest.raises(StudentError, match="use --format ctranslate2"):
        export_student(causal, "onnx", tmp_path / "out", texts)
    with pytest.raises(StudentError, match="use --format onnx"):
        export_student(student("classifier", "bert", {}), "ctranslate2", tmp_path / "o", texts)
    with pytest.raises(InputError, match="expected int8 or float32"):
        export_student(causal, "onnx", tmp_path / "out", texts, numbers="float16")
    with pytest.raises(InputError, match="is no export"):
        export_student(causal, "merged", tmp_path / "taken", texts)
    with pytest.raises(StudentError, match="there are no texts to compare on"):
        export_student(causal, "merged", tmp_path / "out", [])
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_an_onnx_export_scores_labels_and_writes_no_rationales(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    needs("onnx")
    folder = student("seq2seq", "t5", {"task_signal": "decoder"})
    export_student(folder, "onnx", tmp_path / "out", texts)

    answer = Predictor.load(tmp_path / "out").predict(texts[:2], rationales=True)

    assert [row.rationale for row in answer] == [None, None]


def test_a_merged_student_names_no_folder_of_this_machine(
    student: Students, texts: list[str], tmp_path: Path
) -> None:
    folder = student("causal", "llama", LORA)
    local = read_manifest(folder).model_copy(update={"base": str(tmp_path)})

    assert merged_manifest(local).base == tmp_path.name
    assert merged_manifest(local).student.lora is None
    assert merged_model(folder, read_manifest(folder)).config.model_type == "llama"
