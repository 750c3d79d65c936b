"""finstill export: a student in a form to ship, compared with the original before it counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from common.config import RunConfig
from common.data.leakage import leaked
from common.data.store import read_columns, read_records
from common.errors import InputError, MissingDependency, UsageError
from common.records import EvaluationReport, TrainingPair
from workers.run_directory import RunDirectory, open_run, read_json
from workers.services import apply_thread_environment, settings_from_environment

if TYPE_CHECKING:
    from student.model_card import ModelCardFacts
    from student.runtime import Part

FORMATS = ("hf", "merged", "ctranslate2", "onnx")


@click.command(name="export")
@click.argument("run_id", metavar="RUN")
@click.option("--format", "form", type=click.Choice(FORMATS), default="hf", show_default=True)
@click.option("--system", default="student", show_default=True, help="Which system of the run.")
@click.option(
    "--numbers",
    type=click.Choice(["int8", "float16", "float32"]),
    help="How weights are stored; ctranslate2 and onnx: int8 unless told.",
)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder for it.")
@click.option("--push", metavar="REPO", help="Upload it to the model hub afterwards.")
def export(
    run_id: str, form: Any, system: str, numbers: str | None, out: Path | None, push: str | None
) -> None:
    """
    Write a trained student of RUN as Hugging Face weights, CTranslate2 or ONNX, with a model card.

    The result is reloaded and must answer the validation texts (a run without any: its first
    training texts) as the student does. Takes about 4 bytes of RAM a weight, once: 32 GB for 8
    billion; onnx up to seven times that, hf of a 4-bit student less.

    \b
    finstill export demo-1a2b3c --format merged
    finstill export demo-1a2b3c --format ctranslate2 --numbers int8 --out finstill-int8
    finstill predict finstill-int8 "Operating profit doubled."
    """  # fmt: skip
    settings = settings_from_environment()
    run, config = open_run(settings.runs, run_id)
    folder = trained_model(run, system)
    apply_thread_environment(settings)
    facts = card_facts(run, config, system, folder)
    check_push(push, facts.must_begin_with)
    from student.checkpoint import read_manifest
    from student.export.export import export_student, require_publishable
    from student.model_card import render_model_card

    target = out or run.system(system) / "exports" / "-".join(filter(None, (form, numbers)))
    manifest = read_manifest(folder)
    if push:
        require_publishable(form, manifest)
    part, texts = _comparison_texts(run, config, system)
    record = export_student(
        folder,
        form,
        target,
        texts,
        numbers=numbers,
        part=part,
        card=lambda record: render_model_card(facts, manifest, record),
        threads=settings.threads,
    )
    found = record.check
    click.echo(
        f"{target}: {record.format}, {record.numbers}, {_megabytes(target):.1f} MB; on "
        f"{found['texts']:.0f} {record.texts} {found['labels']:.2%} other labels, probabilities "
        f"{found['probability']:.2g} apart on average."
    )
    if push:
        click.echo(f"pushed to {upload(target, push)}")


def trained_model(run: RunDirectory, system: str) -> Path:
    """The model folder of a system. Raises InputError naming the systems that have one."""
    folder = run.system(system) / "model"
    if not (folder / "manifest.json").is_file():
        trained = sorted(p.parts[-3] for p in run.root.glob("systems/*/model/manifest.json"))
        listing = ", ".join(trained) or "none"
        raise InputError(f"run {run.run_id} has no trained system '{system}'; trained: {listing}.")
    return folder


def _comparison_texts(
    run: RunDirectory, config: RunConfig, system: str
) -> "tuple[Part | None, list[str]]":
    """The validation part; where the run set none aside, the beginning of the training part."""
    _, training = config.trained_systems[system]
    tried: tuple[tuple[Part, int | None], ...] = (("validation", None), ("train", 64))
    for part, most in tried:
        path = run.pairs(part, training.labels)
        texts = [pair.text for pair in read_records(path, TrainingPair)] if path.exists() else []
        if texts:
            return part, texts[:most]
    return None, []


def card_facts(run: RunDirectory, config: RunConfig, system: str, folder: Path) -> "ModelCardFacts":
    """What the run knows for the model card."""
    from student.calibration import read_calibration
    from student.model_card import ModelCardFacts

    student, training = config.trained_systems[system]
    summary = read_json(run.labels_summary) or {}
    split = read_json(run.split_file) or {}
    pairs = run.pairs("train", training.labels)
    near = split.get("near_duplicates") or {}
    taught = training.labels == "teacher"
    return ModelCardFacts(
        run_id=run.run_id,
        system=system,
        data=str(config.data.name or split.get("source") or config.data.kind),
        data_fingerprint=str(split.get("fingerprint", "")),
        training_examples=_rows(pairs),
        teachers=list(summary.get("terms") or []) if taught else [],
        licences=config.data.bare_licences,
        must_begin_with=_must_begin_with(config, student.model, summary if taught else {}),
        report=_report(run, system),
        seen=_test_texts_seen(run, training.labels),
        near=near.get("count"),
        near_cosine=near.get("cosine", 0.0),
        calibration=read_calibration(folder),
    )


def _test_texts_seen(run: RunDirectory, labels: str) -> int | None:
    """Of the test part, in what this student learnt from and was chosen by; None: not known."""
    parts = [run.pairs(part, labels) for part in ("train", "validation")]
    if not (run.part("test").exists() and parts[0].exists()):
        return None
    texts = (t for part in parts if part.exists() for (t,) in read_columns(part, "text"))
    return len(leaked(read_columns(run.part("test"), "id", "text"), texts))


def _rows(path: Path) -> int | None:
    return sum(1 for _ in read_records(path, TrainingPair)) if path.exists() else None


def _must_begin_with(config: RunConfig, model: str, summary: dict[str, Any]) -> str | None:
    """What the base's licence or a teacher's terms want the name to begin with."""
    from teacher.terms import terms_of

    names = [[model]]
    for figures in summary.get("teachers") or []:
        names.append([str(figures.get("teacher", "")), *map(str, figures.get("models") or [])])
    if summary:
        names += [[str(getattr(t, "model", "")), str(t.name)] for t in config.all_teachers]
    found = [terms_of(group) for group in names]
    return next((t.name_begins_with for t in found if t and t.name_begins_with), None)


def _report(run: RunDirectory, system: str) -> EvaluationReport | None:
    tree = read_json(run.evaluation(system))
    try:
        return EvaluationReport.model_validate(tree) if tree else None
    except ValidationError:
        return None


def check_push(repository: str | None, must_begin_with: str | None) -> None:
    """
    Raises before any work is done: UsageError without a token, or where a licence asks for
    another name; MissingDependency.
    """
    if not repository:
        return
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise MissingDependency(
            "export --push needs the package huggingface_hub: pip install huggingface_hub."
        ) from error
    name = repository.rpartition("/")[2]
    if must_begin_with and not name.lower().startswith(must_begin_with.lower()):
        raise UsageError(
            f"export --push {repository}: the licence wants a name that begins with "
            f"'{must_begin_with}'; expected for example {must_begin_with}-{name}."
        )
    if not get_token():
        raise UsageError(
            "export --push: there is no token for the model hub; set HF_TOKEN, or log in with "
            "`hf auth login`."
        )


def upload(folder: Path, repository: str) -> str:
    """Create the repository, private, where it is not there, and upload. Raises UsageError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise UsageError(
            f"export --push {repository}: the hub did not take it ({type(error).__name__}: "
            f"{reason}); the export is whole in '{folder}': push it again later."
        ) from error
    return str(address)


def _megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
