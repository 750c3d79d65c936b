"""finstill cancel: stop a job at its next safe point."""

import click

from workers.client import job_records
from workers.services import settings_from_environment


@click.command(name="cancel")
@click.argument("job_id", metavar="ID")
def cancel(job_id: str) -> None:
    """
    Stop a job at its next safe point: answers are stored, a training keeps its checkpoint.

    \b
    finstill cancel demo-1a2b3c
    """
    with job_records(settings_from_environment()) as records:
        job = records.get(job_id)
        if job.ended:
            click.echo(f"{job.id} is {job.state} already.")
            return
        records.cancel(job.id)
    click.echo(f"{job.id}: asked to stop; `finstill jobs resume {job.id}` goes on later.")
