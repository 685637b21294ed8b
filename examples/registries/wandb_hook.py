"""Keep a gate's verdict and numbers as a run of Weights & Biases: a ``--hook`` of `lieaudit gate`.

    lieaudit gate new.onnx … --report gate/report.json \\
        --hook "python wandb_hook.py --report gate/report.json --project classifier"

The decision arrives on standard input. The run holds the settings as its config, a metric per generator
(``lee/rotation``, ``lee_per_px2/…``, ``relative/…``, ``rule/ID/…``) and the verdict in its summary, a table of the
rules, and decision and report as an artifact of type ``lieaudit``. It needs wandb alone; ``WANDB_MODE=offline`` keeps
the run for ``wandb sync``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import wandb

MEASURED = ("lee", "lee_per_px2", "relative")
COLUMNS = ("id", "generator", "outcome", "value", "limit", "sentence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="what `lieaudit gate --report` wrote")
    parser.add_argument("--project", default="lieaudit")
    options = parser.parse_args()
    decision = json.load(sys.stdin)
    report = json.loads(options.report.read_text(encoding="utf-8"))
    name = report["model"]["name"] or "model"
    with wandb.init(project=options.project, job_type="gate", name=f"gate {name}", config=settings(report)) as run:
        run.log(metrics(decision, report))
        run.log({"rules": wandb.Table(list(COLUMNS), [[rule.get(c) for c in COLUMNS] for rule in decision["rules"]])})
        run.summary.update({"verdict": decision["verdict"], "headline": decision["headline"]})
        kept = wandb.Artifact(f"gate-{report['model']['sha256'][:12]}", "lieaudit", metadata=decision["compared"])
        kept.add_file(str(options.report), "report.json")
        with kept.new_file("decision.json") as file:
            json.dump(decision, file)
        run.log_artifact(kept)


def metrics(decision: dict[str, Any], report: dict[str, Any]) -> dict[str, float]:
    """Return what was measured; what was not has no entry."""
    results = report["results"].items()
    found = {f"{m}/{generator}": result[m] for m in MEASURED for generator, result in results if m in result}
    found |= {f"rule/{rule['id']}/{rule['generator']}": rule["value"] for rule in decision["rules"] if "value" in rule}
    return found | ({"top1": report["data"]["top1"]} if "top1" in report["data"] else {})


def settings(report: dict[str, Any]) -> dict[str, Any]:
    """Return what runs are compared and filtered by."""
    return {
        "model_sha256": report["model"]["sha256"],
        "data_sha256": report["data"]["sha256"],
        "images": report["data"]["count"],
        "metric_version": report["metric_version"],
        "spec": report["spec"],
    }


if __name__ == "__main__":
    main()
