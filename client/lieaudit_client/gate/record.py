"""What happens with a decision: files, the MLflow registry, a command of the user's."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable

from lieaudit_client.exceptions import RefusedError
from lieaudit_client.formats import decision_json
from lieaudit_client.formats import html as page
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.gate.mlflow import Registry
from lieaudit_client.gate.run import Result
from lieaudit_client.report_json import dump_report


def to_mlflow(
    registry: Registry, result: Result, alias: str | None, experiment: str, say: Callable[[str], None]
) -> None:
    """Record the verdict on the candidate's registered version and, on pass only, move the alias to it.

    Raises
    ------
    ClientError
        MLflow refused, or the alias has moved; the tags say how far it came.
    """
    version = result.candidate.version
    assert version is not None  # noqa: S101 - the caller made sure
    outcome = result.outcome
    decision = outcome.decision
    passed = decision.verdict == "pass"
    promotion = f"{'pending' if passed else 'refused'}: {alias}" if alias is not None else "not asked for"
    registry.tag(
        version,
        {
            "verdict": decision.verdict,
            "promotion": promotion,
            "reason": decision.reasons[0] if decision.reasons else "every rule is met",
            "policy_sha256": decision.policy_sha256,
            "model_sha256": decision.candidate_sha256,
            "baseline_sha256": decision.baseline_sha256 or "none",
        },
    )
    run = registry.log(experiment, version, decision.verdict, artefacts(outcome, alias))
    registry.tag(version, {"run_id": run})
    say(f"{version}: verdict {decision.verdict}, logged in MLflow run {run}")
    if alias is None or not passed:
        return
    baseline = result.baseline.version if result.baseline is not None else None
    registry.move_alias(alias, version, baseline if baseline is not None and baseline.name == version.name else None)
    registry.tag(version, {"promotion": f"done: {alias}"})
    say(f"{version.name}@{alias} is now version {version.version}")


def artefacts(outcome: Outcome, alias: str | None = None) -> dict[str, str]:
    """Give what is kept with a verdict, by file name; ``alias`` is the one that a pass is to move."""
    found = {
        "decision.json": decision_json.render(outcome),
        "report.json": dump_report(outcome.candidate),
        "page.html": page.render(outcome.candidate, outcome.baseline, outcome.decision, promote=alias),
    }
    if outcome.baseline is not None:
        found["baseline.json"] = dump_report(outcome.baseline)
    return found


def run_hook(command: str, outcome: Outcome) -> None:
    """Run a command of the user's (no shell) with the verdict's JSON on its standard input.

    The verdict is in its environment as ``LIEAUDIT_VERDICT``, too.

    Raises
    ------
    RefusedError
        ``HOOK_FAILED``: it cannot be started or ended with another code than 0.
    """
    environment = os.environ | {"LIEAUDIT_VERDICT": outcome.decision.verdict}
    decision = decision_json.render(outcome).encode()
    try:
        done = subprocess.run(shlex.split(command), input=decision, env=environment, check=False)
    except (OSError, IndexError, ValueError) as problem:  # ValueError: a quotation that never ends
        raise RefusedError(
            f"the hook cannot be started: {problem}", reason="HOOK_FAILED", subject=command, hint="is it on the PATH?"
        ) from problem
    if done.returncode:
        raise RefusedError(
            f"the hook ended with code {done.returncode}", reason="HOOK_FAILED", subject=command, hint="see its output"
        )
