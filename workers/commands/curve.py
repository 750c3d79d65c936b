"""finstill curve: how much data a recipe needs."""

import shlex
import time
from pathlib import Path

import click
from rich.console import Console

from common.config import load_config
from common.errors import ConfigError, FinstillError
from common.evaluation.comparison import Comparison
from common.fingerprint import digest
from workers.client import Client, raise_for
from workers.curve import CurvePlace, curve_places, default_line, draw_curve
from workers.job_records import Job, State
from workers.run_directory import RunDirectory
from workers.services import settings_from_environment


@click.command(name="curve")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--fractions", default="0.03,0.06,0.12,0.25,0.5,1", show_default=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 50))
@click.option("--line", help="The baseline drawn as a line, at full data [the first LoRA one].")
def curve(
    config: Path, overrides: tuple[str, ...], fractions: str, seeds: int, line: str | None
) -> None:
    """
    Train CONFIG's recipes on growing parts of the data, over seeds, as worker tasks.

    What is finished is not done again: after Ctrl-C or a crash the same command goes on.

    \b
    finstill curve configs/demo.yaml --fractions 0.12,0.5,1 --seeds 2
    """
    resolved = load_config(config, overrides)
    line = line or default_line(resolved)
    places = curve_places(resolved, _shares(fractions), seeds, line)
    console = Console()
    client = Client(settings_from_environment())
    try:
        client.look_ahead(resolved)  # a system may stand in the last run alone
        runs = [client.submit(place.config) for place in places]
    except FinstillError:
        client.close()
        raise
    try:
        _follow(client, console, places, runs)
    except KeyboardInterrupt:
        console.print("\nThe jobs go on; the same command rejoins them.")
        raise
    client.close()
    words = ["finstill", "curve", str(config), *overrides, "--fractions", fractions]
    command = shlex.join([*words, "--seeds", str(seeds), *(["--line", line] if line else [])])
    comparison = draw_curve(places, runs, line, command)
    _write(console, client.settings.runs, f"{resolved.name}-{_digits(runs)}", comparison)


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"--fractions '{text}' are not numbers separated by commas.") from error


def _follow(
    client: Client, console: Console, places: list[CurvePlace], runs: list[RunDirectory]
) -> None:
    """One line per finished run. Raises the first failure; the other runs stay queued."""
    waiting = dict(enumerate(runs))
    while waiting:
        for index, run in list(waiting.items()):
            job = client.jobs.get(run.run_id)
            if job.ended:
                raise_for(job)
                del waiting[index]
                _say(console, places[index], job, len(places) - len(waiting), len(places))
        time.sleep(0.5)


def _say(console: Console, place: CurvePlace, job: Job, done: int, total: int) -> None:
    mark = "done" if job.state is State.DONE else job.state
    what = f"{place.fraction:.0%} of the data, seed {place.seed}"
    console.print(f"[{done}/{total}] {what}: {mark} ({job.id})", markup=False, highlight=False)


def _digits(runs: list[RunDirectory]) -> str:
    return digest([run.run_id for run in runs])[:10]


def _write(console: Console, folder: Path, name: str, comparison: Comparison) -> None:
    from workers.commands.tables import print_comparison
    from workers.comparing import write_comparison

    target = RunDirectory(folder / f"curve-{name}")
    write_comparison(target, comparison)
    print_comparison(console, comparison)
    console.print(f"\nReport: {target.report('html')}", soft_wrap=True, highlight=False)
