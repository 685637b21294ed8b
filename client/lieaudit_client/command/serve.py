"""``lieaudit serve``."""

from __future__ import annotations

import click

from lieaudit_client.exceptions import UnreachableError


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> int:
    """Run the service: the same as `lieaudit-server serve`, with the same options."""
    try:
        from lieaudit_server.__main__ import main
    except ModuleNotFoundError as problem:
        raise UnreachableError(
            f"the service cannot be started here: {problem.name} is not installed",
            reason="SERVER_NOT_INSTALLED",
            subject=str(problem.name),
            hint="pip install 'lieaudit-server[cpu]'",
        ) from problem
    return int(main(["serve", *arguments]) or 0)
