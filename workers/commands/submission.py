"""What run, train and evaluate share: load a config, submit it, follow it, say what came out."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from common.config import RunConfig, load_config
from common.errors import FinstillError
from workers.client import Client, raise_for
from workers.display import JobDisplay
from workers.job_records import Job
from workers.pipeline import LocalRun
from workers.run_directory import RunDirectory
from workers.services import Settings, apply_thread_environment, settings_from_environment


def run_until(
    until: str,
    path: Path,
    overrides: Sequence[str],
    *,
    local: bool = False,
    as_json: bool = False,
    detach: bool = False,
) -> RunDirectory:
    """Do a config's stages up to the kind `until`, on the queue or here, and print the outcome."""
    config = load_config(path, overrides)
    settings = settings_from_environment()
    apply_thread_environment(settings)
    console = Console(stderr=as_json)
    if local:
        with JobDisplay(console) as display:
            work = LocalRun(settings, config, until, display)
            work.execute()
        run = work.run
    else:
        run = _queued(settings, config, until, console, detach)
        if detach:
            return run
    _say(console, run, until, as_json)
    return run


def _queued(
    settings: Settings, config: RunConfig, until: str, console: Console, detach: bool
) -> RunDirectory:
    client = Client(settings)
    try:
        run = client.submit(config, until)
    except FinstillError:
        client.close()
        raise
    if detach:
        console.print(f"submitted {run.run_id}; follow it with: finstill jobs {run.run_id} --watch")
        return run
    try:
        job = follow(client, run.run_id, console)
    except KeyboardInterrupt:
        console.print(
            f"\nThe job goes on. Rejoin it: finstill jobs {run.run_id} --watch"
            f"   stop it: finstill cancel {run.run_id}"
        )
        raise
    client.close()
    raise_for(job)
    return run


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show a job until it ends."""
    with JobDisplay(console) as display:
        return client.follow(job_id, display)


def _say(console: Console, run: RunDirectory, until: str, as_json: bool) -> None:
    if until == "report":
        from workers.commands.tables import print_report

        print_report(console, run)
    if as_json:
        report = str(run.report("html")) if until == "report" else None
        click.echo(json.dumps({"run": run.run_id, "folder": str(run.root), "report": report}))
    elif until != "report":
        console.print(f"{run.run_id}: done. Its folder is {run.root}", soft_wrap=True)
