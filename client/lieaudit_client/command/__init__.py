"""The ``lieaudit`` command.

Every subcommand is imported when it is called, so that a call loads only what it needs (tables, formats). A subcommand
returns its exit code (`lieaudit_client.command.exits`); errors of the client become one sentence on standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import click

from lieaudit_client.command import streams
from lieaudit_client.command.exits import INCOMPLETE, INTERRUPTED, OK, POLICY_FAILED, TERMINATED, USAGE, exit_code
from lieaudit_client.command.grouping import unknown_command
from lieaudit_client.exceptions import ClientError
from lieaudit_client.printable import printable

# name -> (module, attribute, one line of help)
COMMANDS = {
    "audit": ("lieaudit_client.command.audit", "audit", "Audit one model."),
    "gate": ("lieaudit_client.command.gate", "gate", "Audit, compare with a baseline, decide by a policy."),
    "compare": ("lieaudit_client.command.gate", "compare", "Compare two reports."),
    "policy": ("lieaudit_client.command.gate", "policy", "Check a policy file."),
    "repair": ("lieaudit_client.command.repair", "repair", "Average a classifier over shifts, and gate the result."),
    "differentiate": (
        "lieaudit_client.command.differentiate",
        "differentiate",
        "Write the derivative of any ONNX graph as a graph.",
    ),
    "report": ("lieaudit_client.command.report", "report", "Show a report file, or make a page of it."),
    "inspect": ("lieaudit_client.command.inspect", "inspect", "Read a model without auditing it."),
    "watch": ("lieaudit_client.command.remote", "watch", "Follow an audit to its end."),
    "fetch": ("lieaudit_client.command.remote", "fetch", "Show the report of a finished audit."),
    "cancel": ("lieaudit_client.command.remote", "cancel", "End an audit."),
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(unknown_command(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="lieaudit-client", prog_name="lieaudit")
def command() -> None:
    """Measure how equivariant an image model is, how sure that is, and which layers break it."""


def run(arguments: list[str]) -> int:
    """Run the command with these arguments and give its exit code: 1 only where a policy was looked at and failed."""
    streams.speak_any_encoding()
    try:
        result = command.main(arguments, prog_name="lieaudit", standalone_mode=False)
        with streams.delivered():
            pass  # what is still held for standard output is part of the answer
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code if error.exit_code != POLICY_FAILED else USAGE
    except (KeyboardInterrupt, click.Abort):
        streams.say("interrupted")
        return INTERRUPTED
    except SystemExit as stop:  # the server's own command line, or the signal to end
        return _code_of(stop)
    except ClientError as error:
        streams.say(printable(f"lieaudit: {error.reason}: {error}"))
        return exit_code(error)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is no verdict of a policy
        streams.say(printable(_crash(problem)))
        return INCOMPLETE
    return result if isinstance(result, int) else 0


def main() -> None:
    """Be the ``lieaudit`` program."""
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    # What Python would flush at its end has been written or given up: a second failure would change the exit code.
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        streams.abandon(sys.stdout)
    sys.exit(code)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # unwinds, so that the audit is cancelled and an embedded service ends


def _code_of(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        streams.say(printable(f"lieaudit: {stop.code}"))
        return INCOMPLETE
    code = stop.code or OK
    if code == POLICY_FAILED:  # how click and rich end where a pipe's reader has gone
        streams.say("lieaudit: OUTPUT_CLOSED: the output was closed before everything was written")
        return INCOMPLETE
    return code


def _crash(problem: Exception) -> str:
    """Say in a sentence what went wrong that nobody foresaw; with LIEAUDIT_TRACEBACK set, where."""
    if os.environ.get("LIEAUDIT_TRACEBACK"):
        streams.say(printable("".join(traceback.format_exception(problem))))
    if isinstance(problem, MemoryError):
        return "lieaudit: OUT_OF_MEMORY: this machine has no memory left for the command"
    if isinstance(problem, OSError):
        return f"lieaudit: SYSTEM_ERROR: the operating system refused: {problem}"
    place = traceback.extract_tb(problem.__traceback__)[-1]
    said = " ".join(str(problem).split())[:300]
    return (
        f"lieaudit: CRASHED: {type(problem).__name__}: {said} ({Path(place.filename).name}:{place.lineno}). "
        "This is a fault of lieaudit, and no verdict; LIEAUDIT_TRACEBACK=1 shows where it comes from"
    )
