"""What an audit must measure so that a policy can be decided."""

from __future__ import annotations

import datetime as dt
from typing import Any

from lieaudit_policy.policy import Policy


def needs(policy: Policy, today: dt.date) -> dict[str, Any]:
    """Return the fields of a valid ``lieaudit.v1.PolicyCheck``; ``today`` decides which waivers have expired."""
    found: dict[str, Any] = {
        "generators": policy.generators,
        "layerwise": policy.layerwise,
        "relative": policy.relative,
        "needs_baseline": policy.needs_baseline,
        "datasets": policy.datasets,
        "parts": policy.parts,
        "min_images": policy.min_images,
        "max_images": policy.max_images or 0,
        "on_inconclusive": policy.on_inconclusive,
        "rules": len(policy.rules),
        "waivers": [
            {"owner": w.owner, "reason": w.reason, "expires": w.expires.isoformat(), "expired": w.expired(today)}
            for w in policy.waivers
        ],
    }
    if policy.secant_px is not None:
        found["secant_px"] = policy.secant_px
    return found
