"""Options that several commands have."""

import click

log_format = click.option(
    "--log-format",
    default="text",
    type=click.Choice(["text", "json"]),
    envvar="FINSTILL_LOG_FORMAT",
    show_default=True,
)
