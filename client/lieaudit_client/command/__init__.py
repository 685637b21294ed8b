"""The ``lieaudit`` command.

Every subcommand is imported when it is called, so that a call loads only what it needs (tables, formats). A subcommand
returns its exit code (`lieaudit_client.command.exits`); errors of the client become one sentence on standard error.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

import click

from lieaudit_client.command.exits import INTERRUPTED, TERMINATED, exit_code
from lieaudit_client.exceptions import ClientError
from lieaudit_client.printable import printable

# name -> (module, attribute, one line of help)
COMMANDS = {
    "audit": ("lieaudit_client.command.audit", "audit", "Audit one model."),
    "gate": ("lieaudit_client.gate.command", "gate", "Audit, compare with a baseline, decide by a policy."),
    "compare": ("lieaudit_client.gate.command", "compare", "Compare two reports."),
    "policy": ("lieaudit_client.gate.command", "policy", "Check a policy file."),
    "report": ("lieaudit_client.command.report", "report", "Show a report file, or make a page of it."),
    "inspect": ("lieaudit_client.command.inspect", "inspect", "Read a model without auditing it."),
    "serve": ("lieaudit_client.command.serve", "serve", "Run the service."),
    "status": ("lieaudit_client.command.status", "status", "Show a service's queue and audits."),
    "health": ("lieaudit_client.command.health", "health", "Ask whether a service serves; for health checks."),
}

_EPILOG = (
    "Exit codes: 0 pass; 1 policy failed; 2 bad usage or bad input; 3 inconclusive or incomplete; "
    "4 the service could not be reached or refused."
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="lieaudit-client", prog_name="lieaudit")
def command() -> None:
    """Measure how equivariant an image model is, how sure that is, and which layers break it."""


def run(arguments: list[str]) -> int:
    """Run the command with these arguments and give its exit code."""
    try:
        result = command.main(arguments, prog_name="lieaudit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, e.g. `lieaudit report R.json | head`
        sys.stderr.close()
        return 141
    except SystemExit as stop:  # the server's own command line, or the signal to end
        return stop.code if isinstance(stop.code, int) else 0
    except ClientError as error:
        click.echo(printable(f"lieaudit: {error.reason}: {error}"), err=True)
        return exit_code(error)
    return result if isinstance(result, int) else 0


def main() -> None:
    """Be the ``lieaudit`` program."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # unwinds, so that the audit is cancelled and an embedded service ends
