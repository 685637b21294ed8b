"""A policy's text as the numerics take it: valid, or an error that lists every problem."""

from __future__ import annotations

from collections.abc import Sequence

from lieaudit_policy import Policy, check

from lieaudit.errors import PolicyError


def parse(text: str, measures: Sequence[str] = ()) -> Policy:
    """Read a policy, which may name ``measures`` of other distributions.

    Raises `PolicyError` that lists every problem with its line.
    """
    policy, problems = check(text, measures)
    if policy is None:
        shown = "; ".join(map(str, problems[:8])) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise PolicyError(
            f"the policy is not valid: {shown}",
            reason="INVALID_POLICY",
            subject=problems[0].field or "policy",
            hint="`lieaudit policy check FILE` lists every problem",
        )
    return policy
