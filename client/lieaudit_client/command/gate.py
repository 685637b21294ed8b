"""``lieaudit gate``, ``lieaudit compare`` and ``lieaudit policy``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import click
from lieaudit_api.v1 import gate_pb2, report_pb2, spec_pb2

from lieaudit_client.client import Client
from lieaudit_client.command import exits, parsing, service, streams
from lieaudit_client.command.display import Display
from lieaudit_client.command.grouping import IMAGES, OUTPUT, SERVICE, GroupedCommand, hiding, option
from lieaudit_client.command.options import check_writable, server_options, spec_from, spec_options
from lieaudit_client.command.printing import show
from lieaudit_client.exceptions import ClientError
from lieaudit_client.formats import comparison, decision_json, junit, markdown, sarif, terminal
from lieaudit_client.formats import html as page
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.gate import record
from lieaudit_client.gate.run import Request, Result, check_here, problem_lines, read_policy, run
from lieaudit_client.gate.sources import Resolver
from lieaudit_client.preprocessing import parse_preprocessing
from lieaudit_client.printable import printable, printable_copy
from lieaudit_client.registries.hub import is_hub
from lieaudit_client.registries.mlflow import Registry, is_registered
from lieaudit_client.report_json import dump_report, read_report

DECISION = "The decision"
AFTERWARDS = "Afterwards"
_FILES = ("json_file", "junit_file", "sarif_file", "markdown_file", "html_file", "report_file")


def _datasets(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in value:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise click.BadParameter(f"{text!r} is not NAME=DATA")
        if not Path(place).exists():
            raise click.BadParameter(f"{place} does not exist")
        found[name] = place
    return found


@click.command(cls=GroupedCommand)
@click.argument("model")
@option(
    DECISION, "--policy", "policy_file", required=True, metavar="FILE", help="YAML; `lieaudit policy init` writes one."
)
@option(IMAGES, "--data", type=click.Path(exists=True), help="An .npz, .tar or .zip, or a folder of images.")
@option(
    DECISION,
    "--baseline",
    metavar="B",
    help="REPORT.json, MODEL.onnx, audit:ID, mlflow:models:/NAME@ALIAS or hf:OWNER/REPO@REVISION.",
)
@option(
    DECISION,
    "--first-version",
    type=click.Choice(["limits", "pass"]),
    help="Where there is no baseline yet: let the rules that need none decide, or also pass where the policy has none.",
    unset="limits, where the registry has no version with the baseline's alias",
)
@option(
    IMAGES,
    "--baseline-preprocess",
    metavar="P",
    help="How the baseline takes the same images, if not as --preprocess says.",
)
@option(
    IMAGES,
    "--dataset",
    "datasets",
    metavar="NAME=DATA",
    multiple=True,
    callback=_datasets,
    help="Further images (or a report of MODEL on them) that a gap rule names; may be repeated.",
)
@option(DECISION, "--power", is_flag=True, help="Say how many images would decide an inconclusive rule.")
@option(OUTPUT, "--json", "json_file", metavar="FILE", help="Write the decision; - for standard output.")
@option(OUTPUT, "--junit", "junit_file", metavar="FILE", help="Write JUnit XML, a test case per rule.")
@option(OUTPUT, "--sarif", "sarif_file", metavar="FILE", help="Write SARIF 2.1.0.")
@option(OUTPUT, "--markdown", "markdown_file", metavar="FILE", help="Write Markdown, for a step summary or a comment.")
@option(OUTPUT, "--html", "html_file", metavar="FILE", help="Write a page that works offline.")
@option(
    OUTPUT,
    "--format",
    "formats",
    metavar="NAME=FILE",
    multiple=True,
    callback=parsing.formats,
    help="Write a format by name: json, junit, sarif, markdown, html, or a distribution's own. May be repeated.",
)
@option(OUTPUT, "--report", "report_file", metavar="FILE", help="Write the candidate's report: the next baseline.")
@option(AFTERWARDS, "--hook", metavar="COMMAND", help="Run it at the end, the decision's JSON on its standard input.")
@option(AFTERWARDS, "--promote", metavar="ALIAS", help="On pass, move this alias of the MLflow registry to MODEL.")
@option(
    AFTERWARDS,
    "--mlflow-experiment",
    default="lieaudit",
    show_default=True,
    metavar="NAME",
    help="Where MLflow keeps the evidence.",
)
@option(
    AFTERWARDS,
    "--card",
    type=click.Choice(["pr", "commit"]),
    help="Write the numbers into the model card of MODEL on the Hugging Face Hub, as a pull request or a commit.",
)
@hiding(["generators"])
@spec_options
@server_options
@option(SERVICE, "--again", is_flag=True, help="Measure anew what the service has measured before.")
def gate(model: str, policy_file: str, **options: Any) -> int:
    """Audit MODEL, compare it with a baseline or with limits, and decide by a policy.

    MODEL is an ONNX file, a registered model (mlflow:models:/NAME/VERSION, mlflow:models:/m-ID, mlflow:runs:/RUN/PATH,
    hf:OWNER/REPO@REVISION/PATH), or the report of an earlier audit. The service decides, so every client decides alike;
    without --server it is started embedded.
    """
    files = [*(options[name] for name in _FILES), *(place for place, _ in options["formats"])]
    check_writable(*files)
    if files.count("-") > 1:
        raise click.UsageError("only one format can be written to standard output")
    if options["generators"]:
        raise click.UsageError("--generators: the policy's rules say which ones are measured")
    _check_afterwards(model, options)
    data, baseline, datasets, power = (options[name] for name in ("data", "baseline", "datasets", "power"))
    own = options["baseline_preprocess"]
    taken = parse_preprocessing(own) if own is not None else None
    first = options["first_version"] or ""
    request = Request(model, data, policy_file, baseline, datasets, spec_from(options), power, taken, first)
    with (
        tempfile.TemporaryDirectory(prefix="lieaudit-gate-") as folder,
        Display() as display,
        service.connect(options, display) as client,
    ):
        resolver = Resolver(client, Path(folder), reuse=not options["again"])
        result = _run(client, resolver, request, options, display)
        registry = resolver.registry
    code = exit_code(result.outcome)
    lost = _write(result.outcome, options)
    if lost:  # what was decided cannot be looked up: a fail stays one, a pass is none, and nothing is promoted
        return code or lost
    return _finish(code, result, registry, options)


def _check_afterwards(model: str, options: dict[str, Any]) -> None:
    """Refuse what the registry of MODEL cannot do before hours of work, not after them."""
    if options["promote"] is not None and not is_registered(model):
        raise click.UsageError(
            "--promote moves an alias of the MLflow registry: give MODEL as mlflow:models:/NAME/VERSION"
        )
    if options["card"] is not None and not is_hub(model):
        raise click.UsageError(
            "--card writes into a model card of the Hugging Face Hub: give MODEL as hf:OWNER/REPO@REVISION"
        )


def decide(request: Request, options: dict[str, Any]) -> tuple[int, Outcome]:
    """Measure, decide and show the verdict, and write nothing: the exit code, and what it stands on."""
    with (
        tempfile.TemporaryDirectory(prefix="lieaudit-gate-") as folder,
        Display() as display,
        service.connect(options, display) as client,
    ):
        outcome = _run(client, Resolver(client, Path(folder)), request, options, display).outcome
    show(terminal.view(outcome), to_stderr=False)
    return exit_code(outcome), outcome


def _run(client: Client, resolver: Resolver, request: Request, options: dict[str, Any], display: Display) -> Result:
    def measure(model: str, data: str, spec: spec_pb2.AuditSpec) -> report_pb2.Report:
        return service.audit(client, model, data, spec, options, display)

    return run(client, resolver, request, measure, _say)


def _write(outcome: Outcome, options: dict[str, Any]) -> int:
    """Write every format that was asked for and show the verdict: 0, or the exit code of the first that was lost."""
    candidate, baseline, decision = outcome.candidate, outcome.baseline, outcome.decision
    writers: dict[str, Callable[[], str]] = {
        "json_file": lambda: decision_json.render(outcome),
        "junit_file": lambda: junit.render(outcome),
        "sarif_file": lambda: sarif.render(outcome),
        "markdown_file": lambda: markdown.render(outcome),
        "html_file": lambda: page.render(candidate, baseline, decision, promote=options["promote"]),
        "report_file": lambda: dump_report(candidate),
    }
    places = [(options[name], render) for name, render in writers.items() if options[name] is not None]
    places += [(place, partial(render, outcome)) for place, render in options["formats"]]
    steps: list[Callable[[], None]] = [partial(_save, place, render) for place, render in places]
    steps.append(lambda: show(terminal.view(outcome), to_stderr="-" in {place for place, _ in places}))
    lost = 0
    for step in steps:
        try:
            step()
        except ClientError as problem:
            _say(f"lieaudit: {problem.reason}: {problem}")
            lost = lost or exits.exit_code(problem)
    if lost:
        _say(f"the verdict is {decision.verdict}; it could not be written in full, so nothing else is done with it")
    return lost


def _save(place: str, render: Callable[[], str]) -> None:
    service.save(place, render())


def _finish(code: int, result: Result, registry: Registry | None, options: dict[str, Any]) -> int:
    """Record the verdict and give the exit code; a verdict that could not be recorded is not a plain pass."""
    try:
        if registry is not None and result.candidate.version is not None:
            record.to_mlflow(registry, result, options["promote"], options["mlflow_experiment"], _say)
        if options["card"] is not None and result.candidate.hub is not None:
            as_request = options["card"] == "pr"
            record.to_card(result.candidate.hub, result.outcome, pull_request=as_request, say=_say)
        if options["hook"] is not None:
            record.run_hook(options["hook"], result.outcome)
    except ClientError as problem:
        _say(f"lieaudit: {problem.reason}: {problem}")
        return code or exits.exit_code(problem)
    return code


def exit_code(outcome: Outcome) -> int:
    """Return the exit code of a decision."""
    decision = outcome.decision
    if decision.verdict == "pass":
        return exits.OK
    if decision.verdict == "fail":
        return exits.POLICY_FAILED
    if decision.on_inconclusive == "warn":
        _say("warning: the verdict is inconclusive, and the policy only warns about it")
        return exits.OK
    return exits.INCOMPLETE


def _say(message: str) -> None:
    streams.say(printable(message))


@click.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--html", "html_file", metavar="FILE", help="Write a page; - for standard output.")
def compare(reports: tuple[str, ...], html_file: str | None) -> int:
    """Show reports side by side: LEE of every generator, and against accuracy on the page.

    It decides nothing: whether one model is no worse than another is what `lieaudit gate` says.
    """
    if len(reports) < 2:
        raise click.UsageError("give at least two reports")
    check_writable(html_file)
    found = [(label, read_report(path)) for label, path in zip(comparison.labels(reports), reports, strict=True)]
    service.save(html_file, page.render_comparison(found) if html_file is not None else "")
    show(comparison.view(found), to_stderr=html_file == "-")
    return exits.OK


@click.group()
def policy() -> None:
    """Write or check the gate's policy."""


@policy.command("init")
@click.argument("file", default="lieaudit.yaml")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def policy_init(file: str, *, force: bool) -> int:
    """Write a commented policy to FILE [default: lieaudit.yaml]; - for standard output."""
    if file != "-" and Path(file).exists() and not force:
        raise click.UsageError(f"{file} exists; --force overwrites it")
    check_writable(file)
    text = resources.files("lieaudit_client.gate").joinpath("policy_template.yaml").read_text(encoding="utf-8")
    service.save(file, text)
    if file != "-":
        _say(f"wrote {file}; `lieaudit policy check {file}` checks it")
    return exits.OK


@policy.command("check", cls=GroupedCommand)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@server_options
def policy_check(files: tuple[str, ...], **options: Any) -> int:
    """Check the policy in each FILE: every problem with its line, or what it needs.

    It is read here, without a service, unless --server names the one to ask.
    """
    texts = {file: read_policy(file) for file in files}
    named = click.get_current_context().get_parameter_source("server")
    if named is not click.core.ParameterSource.COMMANDLINE:  # LIEAUDIT_SERVER is where audits run, and this is none
        checks = {file: check_here(text) for file, text in texts.items()}
    else:
        with service.connect(options) as client:
            checks = {file: client.check_policy(text) for file, text in texts.items()}
    code = exits.OK
    for file, check in ((file, printable_copy(check)) for file, check in checks.items()):
        for line in problem_lines(check, file):
            _say(line)
            code = exits.USAGE
        if not check.problems:
            streams.out("\n".join(_summary(file, check)) + "\n")
    return code


def _summary(file: str, check: gate_pb2.PolicyCheck) -> list[str]:
    needs = [f"measures {', '.join(check.generators)}", f"at least {check.min_images} images"]
    needs += [f"secants of {check.secant_px:g} px"] if check.HasField("secant_px") else []
    needs += ["a baseline"] if check.needs_baseline else []
    needs += [f"dataset {name}" for name in check.datasets]
    needs += ["layerwise attribution"] if check.layerwise != "none" else []
    lines = [f"{file}: {check.rules} rules; needs: {'; '.join(needs)}"]
    for waiver in check.waivers:
        state = "EXPIRED" if waiver.expired else "until"
        lines.append(f"  waiver {state} {waiver.expires} by {waiver.owner}: {waiver.reason}")
    return lines
