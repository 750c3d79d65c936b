"""The command line: parse, call, print. Commands are imported when they are used."""

import sys
from importlib import import_module
from typing import Any

import click

from common import __version__

_COMMANDS = {
    "demo": "Run the whole job on the shipped corpus: no key, no download.",
    "run": "Label, train, evaluate and report what a config describes.",
    "label": "Only ask the teachers; with --estimate, only count the cost.",
    "train": "Everything up to the trained students.",
    "evaluate": "Everything up to the evaluations.",
    "compare": "Compare the systems of one or several runs.",
    "curve": "Accuracy against training size, over seeds.",
    "predict": "Label a text with a run's student; say why if asked.",
    "export": "Write a student as weights, CTranslate2 or ONNX, checked.",
    "jobs": "List jobs, follow one, resume one.",
    "cancel": "Stop a job at its next safe point.",
    "cache": "Count, save, restore, check the answers that were paid for.",
    "up": "Start Redis, workers, HTTP API and dashboard together.",
    "serve": "Serve the HTTP API and the dashboard.",
    "token": "Make, list and revoke tokens of the HTTP API.",
    "worker": "Start a worker process.",
    "config": "Show what a config resolves to.",
    "doctor": "Check Redis, keys, GPU, disk and versions.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use: `--help` must not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(import_module(f"workers.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from common.config.base import suggestion

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = suggestion(args[0], _COMMANDS)
            raise click.UsageError(f"there is no command '{args[0]}'{near or '.'}", context)
        return super().resolve_command(context, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="finstill")
def cli() -> None:
    """
    Distil a large model's labels and rationales into a small one, and compare it honestly.

    \b
    Try:  finstill demo
          finstill run configs/fpb/minilm-claude.yaml data.path=FOLDER teacher.answers=FILE
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a comparison's gate, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; a mistake of the user's gets one sentence and no traceback."""
    from common.errors import FinstillError

    try:
        code = cli.main(args=arguments, prog_name="finstill", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FinstillError as error:
        click.echo(f"finstill: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
