"""finstill jobs: list, follow, resume."""

import json
import time

import click
from rich.console import Console
from rich.table import Table

from common.config import RunConfig
from common.errors import ConfigError, UsageError
from workers.client import Client, job_records, raise_for
from workers.commands.submission import follow
from workers.display import note
from workers.job_records import Job
from workers.run_directory import open_job
from workers.services import settings_from_environment


@click.command(name="jobs")
@click.argument("words", nargs=-1, metavar="[resume] [ID]")
@click.option("--watch", is_flag=True, help="Follow the job until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--max-usd",
    type=click.FloatRange(min=0, min_open=True),
    help="With resume: the job's budget from now on, what is spent included.",
)
def jobs(words: tuple[str, ...], watch: bool, as_json: bool, max_usd: float | None) -> None:
    """
    List all jobs, show one, follow it, or resume one that stopped.

    \b
    finstill jobs
    finstill jobs demo-1a2b3c --watch
    finstill jobs resume demo-1a2b3c
    finstill jobs resume demo-1a2b3c --max-usd 20
    """
    console = Console(stderr=as_json)
    if words[:1] == ("resume",) and len(words) == 2:
        _resume(words[1], console, max_usd)
    elif max_usd is not None:
        raise ConfigError("jobs: --max-usd is the new budget of a job that is resumed: resume ID.")
    elif not words:
        _list(console, as_json)
    elif len(words) == 1:
        _show(words[0], console, watch, as_json)
    else:
        raise ConfigError(
            f"jobs: '{' '.join(words)}' is not [resume] ID; see finstill jobs --help."
        )


def _list(console: Console, as_json: bool) -> None:
    with job_records(settings_from_environment()) as records:
        found = records.all()
    if as_json:
        click.echo(json.dumps([job.model_dump(mode="json") for job in found]))
        return
    table = Table("Job", "State", "Stages", "Age", header_style="bold")
    for job in found:
        done = sum(stage.state == "done" for stage in job.stages)
        age = f"{(time.time() - job.created_at) / 60:.0f} min"
        table.add_row(job.id, job.state, f"{done}/{len(job.stages)}", age)
    console.print(table)


def _show(job_id: str, console: Console, watch: bool, as_json: bool) -> None:
    settings = settings_from_environment()
    with job_records(settings) as records:
        job = records.get(job_id)
    if watch:
        client = Client(settings)
        job = follow(client, job.id, console)
        client.close()
    if as_json:
        click.echo(job.model_dump_json())
    elif not watch:
        _print(console, job)
    if watch:
        raise_for(job)


def _print(console: Console, job: Job) -> None:
    table = Table("Stage", "State", "Done", "", title=f"{job.id}: {job.state}", header_style="bold")
    for stage in job.stages:
        counted = f"{stage.done}/{stage.total} {stage.unit}" if stage.total > 1 else ""
        table.add_row(stage.title, stage.state, counted, note(stage))
    console.print(table)
    if job.counters:
        console.print({k: round(v, 4) for k, v in sorted(job.counters.items())})
    if job.fault:
        console.print(job.fault.message, style="red", soft_wrap=True)


def _resume(job_id: str, console: Console, max_usd: float | None) -> None:
    from teacher.budget import raise_budget

    settings = settings_from_environment()
    client = Client(settings)
    job = client.jobs.get(job_id)
    _, config = open_job(settings.runs, job.id)
    if max_usd is not None:
        if not isinstance(config, RunConfig) or config.labelling.max_usd is None:
            raise UsageError(f"job {job.id} has no budget that --max-usd could change.")
        raise_budget(client.redis, job.id, max_usd)
    client.submit(config, job.kind)
    raise_for(follow(client, job.id, console))
    client.close()
