"""Audit both digit classifiers through a real server, and show them side by side: what ``make demo`` runs.

Starts the service in a process of its own, uploads both models and the images with the client library, audits all ten
generators, prints one table and writes the reports to ``out/demo/``. Then the gate: the augmented model may replace the
plain one, and not the other way round. Needs neither torch nor the network::

    python examples/digits/demo.py [FOLDER FOR THE REPORTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from lieaudit_api.v1 import report_pb2
from lieaudit_client import Client, Progress, dump_report
from lieaudit_client.command import run
from lieaudit_server.embedded import EmbeddedServer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
DATA = HERE / "digits.npz"
POLICY = HERE / "policy.yaml"
MODELS = {"plain": HERE / "plain.onnx", "augmented": HERE / "augmented.onnx"}
SPEC = {"preprocessing": "mean=0.15,std=0.3"}

Reports = dict[str, report_pb2.Report]


def audit_both(client: Client, console: Console) -> Reports:
    """Upload and audit each model on the held-out digits."""
    reports = {}
    for name, path in MODELS.items():
        with console.status(name) as status:

            def show(step: Progress, name: str = name) -> None:
                amount = f" {step.done}/{step.total}" if step.total else ""
                status.update(f"{name}: {step.stage}{amount}")

            reports[name] = client.audit(path, DATA, SPEC, progress=show)
        timing = reports[name].timing
        console.print(f"audited {path.name} in {timing.seconds:.0f} s: {timing.rows:.0f} rows through the model")
    return reports


def side_by_side(reports: Reports) -> Table:
    """One row per generator: both models' LEE with its interval, and the ratio."""
    plain, augmented = reports["plain"], reports["augmented"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.caption = (
        "LEE: mean squared Lie derivative of the class probabilities; 0 is exact invariance.\n"
        "relative: the same against an equally large movement that is no symmetry; under 1, invariance was learned."
    )
    table.add_column("generator", no_wrap=True)
    for name in ("plain", "augmented"):
        table.add_column(f"{name}\nLEE", justify="right")
        table.add_column("95 % interval", justify="right")
        table.add_column("relative", justify="right")
    table.add_column("augmented\n/ plain", justify="right")
    for generator in plain.spec.generators:
        cells = [cell for report in (plain, augmented) for cell in result_cells(report, generator)]
        table.add_row(generator, *cells, ratio_cell(plain, augmented, generator))
    return table


def result_cells(report: report_pb2.Report, generator: str) -> tuple[Text, str, str]:
    """LEE (marked where it is inconclusive), interval and relative of one model under one generator."""
    if generator not in report.results:
        return (Text("not measured"), "", "")
    result = report.results[generator]
    low, high = result.ci95
    relative = f"{result.relative:.2f}" if result.HasField("relative") else "not measured"
    lee = (
        Text(f"{result.lee:.3g}")
        if result.status == "ok"
        else Text(f"{result.lee:.3g} {result.status}", style="yellow")
    )
    return (lee, f"{low:.2g} … {high:.2g}", relative)


def ratio_cell(plain: report_pb2.Report, augmented: report_pb2.Report, generator: str) -> Text:
    """How the augmented model's LEE compares, in colour."""
    if generator not in plain.results or generator not in augmented.results:
        return Text("not measured")
    ratio = augmented.results[generator].lee / plain.results[generator].lee
    return Text(f"{ratio:.2f}×", style="green" if ratio < 1 else "yellow")


def accuracies(reports: Reports) -> str:
    """What the usual number says."""
    return ", ".join(f"{name} {100 * report.data.top1:.1f} %" for name, report in reports.items())


def write_reports(reports: Reports, folder: Path) -> list[Path]:
    """Write each report as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, report in reports.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(dump_report(report), encoding="utf-8")
    return paths


def gate_both(target: str, folder: Path, console: Console) -> None:
    """May one model replace the other? Each way, as a CI job would ask."""
    for candidate, baseline in (("augmented", "plain"), ("plain", "augmented")):
        page = folder / f"gate-{candidate}.html"
        arguments = ["gate", str(folder / f"{candidate}.json"), "--baseline", str(folder / f"{baseline}.json")]
        arguments += ["--policy", str(POLICY), "--server", target, "--html", str(page)]
        console.print(f"\nmay {candidate} replace {baseline}? lieaudit {' '.join(arguments[:4])} …", soft_wrap=True)
        code = run(arguments)
        console.print(f"exit code {code}; page: {page}", soft_wrap=True)


def next_steps(folder: Path) -> str:
    """Three things to try, as they can be typed."""
    beside = Path(sys.executable).with_name("lieaudit")  # not every environment is on the PATH
    here = Path.cwd()
    command, examples, reports = (
        path.relative_to(here) if path.is_relative_to(here) else path for path in (beside, HERE, folder.resolve())
    )
    return (
        "\nthree things to try next:\n"
        f"  1. open {reports / 'gate-plain.html'} in a browser: what a failed gate looks like to everybody else\n"
        "  2. see which layers cause the error:\n"
        f"     {command} audit {examples / 'plain.onnx'} --data {examples / 'digits.npz'}"
        " --preprocess mean=0.15,std=0.3 --layerwise module\n"
        f"  3. try a model of your own: {command} inspect YOUR_MODEL.onnx, and docs/tutorial.md, the first hour"
    )


def main() -> None:
    """Run the demo."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out/demo")
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    with EmbeddedServer() as target, Client(target) as client:
        console.print(f"lieaudit server {client.server_info().version} is up, in a process of its own")
        reports = audit_both(client, console)
        count = reports["plain"].data.count
        console.print(f"\naccuracy on {count} held-out digits: {accuracies(reports)}. And when the digits move?\n")
        console.print(side_by_side(reports))
        for path in write_reports(reports, folder):
            console.print(f"report: {path}")
        gate_both(target, folder, console)
    console.print(next_steps(folder), soft_wrap=True)


if __name__ == "__main__":
    main()
