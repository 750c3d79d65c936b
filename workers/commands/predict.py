"""finstill predict: one text, one student, one answer with its reason."""

import json
from pathlib import Path

import click
from rich.console import Console

from common.errors import InputError
from workers.commands.export import trained_model
from workers.run_directory import open_run
from workers.services import apply_thread_environment, settings_from_environment


@click.command(name="predict")
@click.argument("run_id", metavar="RUN")
@click.argument("text")
@click.option("--system", default="student", show_default=True, help="Which system of the run.")
@click.option("--no-rationale", is_flag=True, help="The label alone: faster.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(run_id: str, text: str, system: str, no_rationale: bool, as_json: bool) -> None:
    """
    Label TEXT with a run's student: label, probability of each label, and the reason.

    RUN is a run, or the folder of a trained or exported student.

    \b
    finstill predict demo-1a2b3c "Operating profit doubled to EUR 12 million."
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

    scored = Predictor.load(folder, threads=settings.threads).predict(
        [text], rationales=not no_rationale
    )[0]
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
