"""What happens with a decision: the MLflow registry, a card on the Hub, a command of the user's."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable

from lieaudit_client.exceptions import RefusedError
from lieaudit_client.formats import decision_json
from lieaudit_client.formats.outcome import Outcome, headline
from lieaudit_client.gate import evidence
from lieaudit_client.gate.run import Result
from lieaudit_client.registries import hub
from lieaudit_client.registries.mlflow import Evidence, Registry, Version


def to_mlflow(
    registry: Registry, result: Result, alias: str | None, experiment: str, say: Callable[[str], None]
) -> None:
    """Record the verdict with the candidate and, on pass only, move the alias to it.

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
    baseline = result.baseline.version if result.baseline is not None else None
    run = registry.log(experiment, _evidence(version, baseline, outcome, alias))
    registry.tag(version, {"run_id": run})
    say(f"{version}: verdict {decision.verdict}, logged in MLflow run {run}")
    if alias is None or not passed:
        return
    same = baseline if baseline is not None and baseline.name == version.name else None
    registry.move_alias(alias, version, same, first=result.champion_missing == (version.name, alias))
    registry.tag(version, {"promotion": f"done: {alias}"})
    say(f"{version.name}@{alias} is now version {version.version}")


def _evidence(version: Version, baseline: Version | None, outcome: Outcome, alias: str | None) -> Evidence:
    data = outcome.candidate.data
    return Evidence(
        version,
        baseline,
        (data.name, data.sha256),
        {
            "verdict": outcome.decision.verdict,
            "headline": headline(outcome.decision),
            "data": data.name,
            "data_sha256": data.sha256,
            "policy_sha256": outcome.decision.policy_sha256,
        },
        evidence.metrics(outcome) | evidence.rule_metrics(outcome),
        evidence.params(outcome),
        evidence.artefacts(outcome, alias),
    )


def to_card(model: hub.HubModel, outcome: Outcome, *, pull_request: bool, say: Callable[[str], None]) -> None:
    """Write the candidate's numbers into its model card on the Hub, as a commit or a pull request.

    Raises
    ------
    ClientError
        The Hub refused.
    """
    data = outcome.candidate.data
    message = f"Equivariance measured by lieaudit: {headline(outcome.decision)}"
    address = hub.write_card(
        model, evidence.metrics(outcome), (data.name, data.sha256), message, pull_request=pull_request
    )
    say(f"{model.label}: metrics written into the model card, {address}")


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
