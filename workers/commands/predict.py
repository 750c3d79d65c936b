"""finstill predict: one text, one student, one answer, and its reason where asked for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from common.errors import InputError, UsageError
from workers.commands.export import trained_model
from workers.run_directory import open_run
from workers.services import apply_thread_environment, settings_from_environment

if TYPE_CHECKING:
    from student.runtime import Precision


@click.command(name="predict")
@click.argument("run_id", metavar="RUN")
@click.argument("text")
@click.option("--system", default="student", show_default=True, help="Which system of the run.")
@click.option("--rationale/--no-rationale", default=False, help="Also generate the reason: slower.")
@click.option(
    "--precision",
    type=click.Choice(["as-trained", "float32", "bf16"]),
    help="What to compute in; as-trained unless told.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    run_id: str,
    text: str,
    system: str,
    rationale: bool,
    precision: "Precision | None",
    as_json: bool,
) -> None:
    """
    Label TEXT with a run's student: label, probability of each label, the reason if asked for.

    RUN is a run, or the folder of a trained or exported student. As trained, an adapter and its
    base take the memory they took in training, and whole weights are float32; bf16 halves those and
    is faster on a GPU or a processor that knows it.

    \b
    finstill predict demo-1a2b3c "Operating profit doubled to EUR 12 million." --rationale
    finstill predict demo-1a2b3c "Operating profit doubled to EUR 12 million." --precision bf16
    """
    settings = settings_from_environment()
    folder = Path(run_id)
    if not (folder / "manifest.json").is_file():
        run, _ = open_run(settings.runs, run_id)
        folder = trained_model(run, system)
    if not text.strip():
        raise InputError("predict: the text is empty; give one sentence.")
    apply_thread_environment(settings)
    from student.predict import Predictor
    from student.runtime import own_numbers

    if precision and (numbers := own_numbers(folder)):
        raise UsageError(
            f"predict --precision {precision}: '{folder}' is an export that computes in {numbers}; "
            "leave the option out, or give the run or an hf or merged export."
        )
    predictor = Predictor.load(
        folder, precision=precision or "as-trained", threads=settings.threads
    )
    (scored,) = predictor.predict([text], rationales=rationale)
    if rationale and predictor.silence:
        click.echo(f"finstill: no rationale: {predictor.silence}", err=True)
    if as_json:
        answer = {"label": scored.label, "probabilities": scored.probabilities}
        click.echo(json.dumps({**answer, "rationale": scored.rationale}, ensure_ascii=False))
        return
    console = Console()
    console.print(f"[bold]{scored.label}[/]")
    for label, probability in sorted((scored.probabilities or {}).items(), key=lambda i: -i[1]):
        console.print(f"  {label:<12} {probability:6.3f} {'█' * round(30 * probability)}")
    if scored.rationale:
        console.print(scored.rationale, markup=False, soft_wrap=True)
