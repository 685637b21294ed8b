"""The gate: decides by statistics whether a model version meets a policy.

`lieaudit_policy` reads the YAML, `comparable` refuses reports that were measured on different terms, `measure` gives
every rule its number and its uncertainty, `decide` turns them into outcomes and one verdict, `sentences` says
it in words.
"""

from lieaudit_policy import Policy, Problem, check, schema

from lieaudit.gate.decide import evaluate
from lieaudit.gate.decision import Decision, RuleOutcome, RuleWaiver
from lieaudit.gate.parsing import parse

__all__ = [
    "Decision",
    "Policy",
    "Problem",
    "RuleOutcome",
    "RuleWaiver",
    "check",
    "evaluate",
    "parse",
    "schema",
]
