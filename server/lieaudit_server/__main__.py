"""The command ``lieaudit-server``: serve, health, doctor, token, config."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lieaudit_server import __version__, config, identity, logs
from lieaudit_server.errors import ConfigError, DamagedFolderError

_EXIT_USAGE, _EXIT_UNREACHABLE = 2, 4
_OURS_ALONE = 0o077  # the workers' user passes through some of our folders


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give its exit status (0 fine, 1 doctor found damage, 2 usage, 4 not reachable)."""
    # The fork server is started by exec; gRPC need not survive a fork and would only warn about it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Its own lines go past our log, one for each handshake that fails: anybody could fill the disk with them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    options = _parser().parse_args(arguments)
    try:
        run = options.run
        return int(run(options))
    except ConfigError as problem:
        sys.stderr.write(f"lieaudit-server: {problem}\n")
        return _EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lieaudit-server", description="The lieaudit gRPC service.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve until SIGTERM")
    config.add_arguments(serve)
    serve.set_defaults(run=_serve)
    health = commands.add_parser("health", help="ask a running server whether it serves (the container's health check)")
    config.add_arguments(health)
    health.set_defaults(run=_health)
    doctor = commands.add_parser("doctor", help="check the data folder of a stopped server")
    doctor.add_argument("--data-dir", type=Path, default=None, help="the data folder")
    deciding = doctor.add_mutually_exclusive_group()
    deciding.add_argument("--repair", action="store_true", help="mark what is broken; without it, only say so")
    deciding.add_argument(
        "--adopt",
        action="store_true",
        help="make the state again from the files' sidecars; set aside what has none",
    )
    deciding.add_argument("--discard", action="store_true", help="set the files that the state does not know aside")
    doctor.set_defaults(run=_doctor)
    token = commands.add_parser("token", help="make, list and revoke bearer tokens").add_subparsers(
        required=True, metavar="ACTION"
    )
    add = token.add_parser("add", help="make a token; it is printed once and kept only as a hash")
    add.add_argument("--tokens-file", type=Path, required=True)
    add.add_argument("--owner", required=True, help="whose models and audits the bearer makes and sees")
    add.add_argument("--scope", default="audit", help=", ".join(identity.SCOPES))
    add.add_argument("--days", type=float, default=None, help="days until it expires; default: never")
    add.set_defaults(run=_token_add)
    show = token.add_parser("list", help="list the tokens' ids")
    show.add_argument("--tokens-file", type=Path, required=True)
    show.set_defaults(run=_token_list)
    revoke = token.add_parser("revoke", help="revoke a token")
    revoke.add_argument("--tokens-file", type=Path, required=True)
    revoke.add_argument("id")
    revoke.set_defaults(run=_token_revoke)
    table = commands.add_parser("config", help="print all settings as a Markdown table")
    table.set_defaults(run=_config)
    return parser


def _serve(options: argparse.Namespace) -> int:
    settings = config.read(vars(options), os.environ)
    logs.configure(settings.log_level, settings.log_format)
    from lieaudit_server.server import serve

    os.umask(_OURS_ALONE)
    asyncio.run(serve(settings))
    return 0


def _health(options: argparse.Namespace) -> int:
    from lieaudit_server.healthcheck import check

    # Whether the address may be open to others is the running server's business.
    answer = check(config.read({**vars(options), "insecure": "true"}, os.environ))
    sys.stdout.write(answer + "\n")
    return 0 if answer == "SERVING" else _EXIT_UNREACHABLE


def _doctor(options: argparse.Namespace) -> int:
    from lieaudit_server.doctor import examine, settle

    os.umask(_OURS_ALONE)
    given = {"data_dir": None if options.data_dir is None else str(options.data_dir)}
    root = config.read(given, os.environ).data_dir
    if options.adopt or options.discard:
        for line in settle(root, keep=options.adopt):
            sys.stdout.write(line + "\n")
    try:
        findings = examine(root, repair=options.repair)
    except DamagedFolderError as problem:
        sys.stdout.write(f"{problem}\n")
        return 1
    for finding in findings:
        sys.stdout.write(finding + "\n")
    sys.stdout.write(f"{len(findings)} findings{', repaired' if findings and options.repair else ''}\n")
    return 1 if findings and not options.repair else 0


def _token_add(options: argparse.Namespace) -> int:
    path = options.tokens_file
    tokens = identity.read_tokens(path) if path.exists() else []
    expires = None if options.days is None else time.time() + 86400 * options.days
    secret, token = identity.new_token(options.owner, options.scope, expires)
    identity.write_tokens(path, [*tokens, token])
    sys.stdout.write(secret + "\n")
    return 0


def _token_list(options: argparse.Namespace) -> int:
    for token in identity.read_tokens(options.tokens_file):
        until = "never" if token.expires is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(token.expires))
        sys.stdout.write(f"{token.id}  {token.owner}  {token.scope}  expires {until}\n")
    return 0


def _token_revoke(options: argparse.Namespace) -> int:
    tokens = identity.read_tokens(options.tokens_file)
    kept = [token for token in tokens if token.id != options.id]
    if len(kept) == len(tokens):
        raise ConfigError(f"token: no token {options.id} in {options.tokens_file}")
    identity.write_tokens(options.tokens_file, kept)
    return 0


def _config(_options: argparse.Namespace) -> int:
    sys.stdout.write(config.markdown_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
