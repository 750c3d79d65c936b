"""finstill predict: one text, one student, one answer with its reason."""

import json

import click
from rich.console import Console

from common.errors import InputError
from workers.run_directory import open_run
from workers.services import settings_from_environment


@click.command(name="predict")
@click.argument("run_id", metavar="RUN")
@click.argument("text")
@click.option("--system", default="student", show_default=True, help="Which system of the run.")
@click.option("--no-rationale", is_flag=True, help="The label alone: faster.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(run_id: str, text: str, system: str, no_rationale: bool, as_json: bool) -> None:
    """
    Label TEXT with a run's student: label, probability of each label, and the reason.

    \b
    finstill predict demo-1a2b3c "Operating profit doubled to EUR 12 million."
    """
    run, _ = open_run(settings_from_environment().runs, run_id)
    folder = run.system(system) / "model"
    if not folder.exists():
        trained = sorted(p.parent.name for p in run.root.glob("systems/*/model"))
        listing = ", ".join(trained) or "none"
        raise InputError(f"run {run.run_id} has no trained system '{system}'; trained: {listing}.")
    if not text.strip():
        raise InputError("predict: the text is empty; give one sentence.")
    from student.predict import Predictor

    scored = Predictor.load(folder).predict([text], rationales=not no_rationale)[0]
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
