"""finstill export: write a student in another form, compare the two, and only then keep it."""

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from common import __version__
from common.errors import InputError, StudentError, UsageError
from student.calibration import CALIBRATION
from student.checkpoint import MANIFEST, Manifest, publish, read_manifest, room_for
from student.export.check import BOUNDS, Answers, answers, drift, require_faithful
from student.export.public import CARD, OWN_BASE, is_local, public_manifest
from student.export.weights import name_base, refuse, write_as_trained, write_merged
from student.predict import Predictor
from student.runtime import EXPORT, ExportFormat, ExportRecord, Part
from student.tokens import load_tokenizer

NUMBERS: dict[ExportFormat, tuple[str, ...]] = {
    "hf": ("float32",),
    "merged": ("float32",),
    "ctranslate2": ("int8", "float16", "float32"),
    "onnx": ("int8", "float32"),
}

RenderCard = Callable[[ExportRecord], str]


def export_student(
    folder: Path,
    form: ExportFormat,
    target: Path,
    texts: Sequence[str],
    *,
    numbers: str | None = None,
    part: Part | None = None,
    card: RenderCard | None = None,
    threads: int | None = None,
) -> ExportRecord:
    """
    Export the finished student in `folder` to `target`, a folder of its own.

    `texts`: those on which both must agree within BOUNDS (student/export/check.py), best such as it
    was not trained on; `part`: of which part of the run they are, as the record tells it.
    `numbers`: int8, float16 or float32 where the form has a choice; None: its smallest. Raises
    StudentError where the form does not fit or drifts: `target` is then as it was; InputError where
    `target` holds something else or cannot be written; DiskFull; MissingDependency.
    """
    manifest = read_manifest(folder)
    numbers = _numbers(form, numbers)
    if not texts:
        raise StudentError("export: there are no texts to compare on; expected some.")
    with _writable(target):
        staging = _staging(target)
    try:
        record = ExportRecord(format=form, numbers=numbers, finstill=__version__, part=part)
        with room_for(target):
            _write(folder, manifest, staging, record, texts)
            record = _checked(folder, staging, record, texts, threads)
            if card:
                (staging / CARD).write_text(card(record), "utf-8")
        with _writable(target):
            publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return record


@contextmanager
def _writable(target: Path) -> Iterator[None]:
    """Say InputError where the system takes no folder there, DiskFull where it has no room."""
    try:
        with room_for(target):
            yield
    except OSError as error:
        raise InputError(
            f"export: cannot write to '{target}' ({error.strerror or error}); give "
            "a new folder in a place that can be written with --out."
        ) from error


def _staging(target: Path) -> Path:
    """A new empty folder beside `target`, which is free."""
    _require_free(target)
    staging = target.with_name(f".{target.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def _numbers(form: ExportFormat, wanted: str | None) -> str:
    known = NUMBERS[form]
    if wanted is not None and wanted not in known:
        raise InputError(
            f"export --format {form} --numbers {wanted}: expected {' or '.join(known)}."
        )
    return wanted or known[0]


def _require_free(target: Path) -> None:
    if not target.exists():
        return
    here = Path.cwd()
    if any(target.samefile(place) for place in (here, *here.parents)):
        raise InputError(
            f"export: '{target}' holds the folder you are in; give a new folder with --out."
        )
    if not (target / EXPORT).is_file() and any(target.iterdir()):
        raise InputError(
            f"export: '{target}' exists and is no export; give a new folder with --out."
        )


def _write(
    folder: Path, manifest: Manifest, staging: Path, record: ExportRecord, texts: Sequence[str]
) -> None:
    if record.format == "hf":
        write_as_trained(folder, staging)
        own = trained_manifest(manifest)
        write_manifest(staging, own)
        if own.student.lora:
            name_base(staging, own.base)
    else:
        _write_whole(folder, manifest, staging, record, texts)
    _write_record(staging, record)


def _write_whole(
    folder: Path, manifest: Manifest, staging: Path, record: ExportRecord, texts: Sequence[str]
) -> None:
    """Every form but `hf` starts from whole float32 weights."""
    if manifest.student.architecture == "classifier" and record.format == "ctranslate2":
        raise refuse("ctranslate2", "classifier", "onnx")
    whole = staging if record.format == "merged" else staging / "whole"
    write_merged(folder, manifest, whole)
    load_tokenizer(str(folder)).save_pretrained(whole)
    own = merged_manifest(manifest)
    for place in {whole, staging}:
        write_manifest(place, own)
    if (folder / CALIBRATION).is_file():
        shutil.copy(folder / CALIBRATION, staging / CALIBRATION)
    if whole == staging:
        return
    if record.format == "ctranslate2":
        from student.export.ctranslate2_convert import write_ctranslate2

        write_ctranslate2(whole, staging, record.numbers)
    else:
        from student.export.onnx_convert import write_onnx

        write_onnx(whole, own, staging, record.numbers, texts)
    load_tokenizer(str(folder)).save_pretrained(staging)
    shutil.rmtree(whole)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest into an export, in place of the training's."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    (folder / MANIFEST).write_text(text, "utf-8")


def merged_manifest(manifest: Manifest) -> Manifest:
    """What a merged student is: no adapter, no 4-bit base, no folder of this machine."""
    public = _public(manifest)
    student = public.student.model_copy(update={"lora": None, "quantization": None})
    return public.model_copy(update={"student": student})


def trained_manifest(manifest: Manifest) -> Manifest:
    """
    What a student exported as it was trained is: it names no folder of this machine, but for the
    local base that an adapter is read onto (require_publishable).
    """
    public = _public(manifest)
    return public.model_copy(update={"base": manifest.base}) if manifest.student.lora else public


def _public(manifest: Manifest) -> Manifest:
    return Manifest.model_validate(public_manifest(manifest.model_dump(mode="json")))


def require_publishable(form: ExportFormat, manifest: Manifest) -> None:
    """Raises UsageError for an export that only this machine could read: see trained_manifest."""
    base = manifest.base
    if form == "hf" and manifest.student.lora and base != OWN_BASE and is_local(base):
        raise UsageError(
            f"export --push: the adapter is read onto the local folder '{base}', which nobody else "
            "has; use --format merged, which holds whole weights."
        )


def _checked(
    folder: Path, staging: Path, record: ExportRecord, texts: Sequence[str], threads: int | None
) -> ExportRecord:
    """One after the other: both at once would take twice the memory of the student."""
    bounds = BOUNDS[record.numbers]
    own, other = (_asked(place, texts, threads) for place in (folder, staging))
    found = drift(own, other, bounds.tie)
    require_faithful(found, bounds, record.format, record.texts)
    checked = record.model_copy(update={"check": found})
    _write_record(staging, checked)
    return checked


def _asked(folder: Path, texts: Sequence[str], threads: int | None) -> Answers:
    """What the student or export in `folder` answers; its weights are not kept."""
    gc.collect()  # models hang in cycles with the hooks of their libraries: what came before goes
    torch.cuda.empty_cache()
    return answers(Predictor.load(folder, threads=threads), texts)


def _write_record(folder: Path, record: ExportRecord) -> None:
    (folder / EXPORT).write_text(record.model_dump_json(indent=1) + "\n", "utf-8")
