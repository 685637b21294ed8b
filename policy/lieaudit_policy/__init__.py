"""The gate's policy, read without any numerics, so that a client and the service read it alike.

`check` reads the YAML form and returns the policy or every problem with its line; `needs` says what an audit must
measure for it; `schema` is the JSON Schema for editors. docs/gate.md describes the form for people.
"""

from lieaudit_policy.needs import needs
from lieaudit_policy.policy import (
    DIRECTIONS,
    KINDS,
    MEASURE_GROUP,
    MEASURES,
    ON_INCONCLUSIVE,
    STATISTICS,
    WORST,
    Policy,
    Rule,
    Waiver,
    check,
    schema,
)
from lieaudit_policy.vocabulary import GENERATORS, GROUPS
from lieaudit_policy.yaml_reader import Problem

__all__ = [
    "DIRECTIONS",
    "GENERATORS",
    "GROUPS",
    "KINDS",
    "MEASURES",
    "MEASURE_GROUP",
    "ON_INCONCLUSIVE",
    "STATISTICS",
    "WORST",
    "Policy",
    "Problem",
    "Rule",
    "Waiver",
    "check",
    "needs",
    "schema",
]
