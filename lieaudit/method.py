"""Which derivative method an audit takes, and what checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lieaudit.derivatives.finite_difference import Calibration, FiniteDifference
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import ModelError, SpecError
from lieaudit.heads.steps import Steps, steps_of
from lieaudit.progress import StageProgress
from lieaudit.report import Skipped
from lieaudit.secants import Secants
from lieaudit.shards import compute_once
from lieaudit.symmetries.generators import BRIGHTNESS_STEP

if TYPE_CHECKING:
    from lieaudit.derivatives.base import Differentiator
    from lieaudit.graph.load import AuditableModel
    from lieaudit.images import Images
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries.plan import Plan

CALIBRATION_IMAGES = 6
"""Images on which the finite-difference step is chosen: their median decides."""

CHECKING_IMAGES = 3
"""Images on which it is chosen where finite differences only check another method."""


@dataclass(frozen=True, slots=True)
class Method:
    """A derivative method ready to use.

    Attributes
    ----------
    differentiator
        Gives the numbers.
    checker
        An independent method that checks it on a few images; None where the method was asked for by name.
    skipped
        What was not used, and why.
    notes
        What the report's reader should know about how the method was set up.
    reasons
        Why no result of this method on this graph can be conclusive.
    steps
        The step ops that the image reaches in the graph.
    precision
        What the derivatives are computed in, where it is not the model's own precision; else empty.
    source
        Fingerprint of the torch module that gives the numbers, where one does and shards are kept; else empty.
    """

    differentiator: Differentiator | Secants
    checker: Differentiator | None = None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    steps: Steps = field(default_factory=Steps)
    precision: str = ""
    source: str = ""

    @property
    def derivative(self) -> Differentiator:
        """The differentiator. Raises `SpecError` where secants are measured, which are no derivative."""
        if isinstance(self.differentiator, Secants):
            raise SpecError("secants are no derivative", reason="INVALID_SPEC", subject="secant_px")
        return self.differentiator

    @property
    def fallback_ops(self) -> Mapping[str, int]:
        """Ops that ran elsewhere than on the provider asked for, and how many."""
        checked = self.checker.fallback_ops if self.checker is not None else {}
        return {**checked, **self.differentiator.fallback_ops}

    @property
    def rows_done(self) -> int:
        """Rows that went through sessions so far."""
        used: tuple[Differentiator | Secants | None, ...] = (self.differentiator, self.checker)
        return sum(method.rows_done for method in used if method is not None)


def choose_method(
    model: AuditableModel,
    images: Images,
    *,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Method:
    """Return the method that ``spec.method`` asks for; ``auto`` is forward mode, checked by finite differences.

    With ``spec.secant_px``, secants: they are the quantity itself, and no other method checks them. ``torch`` is not
    chosen here: `lieaudit.torch.torch_method`.

    Raises
    ------
    UnsupportedOpError
        ``forward`` was asked for and the graph has an op that it cannot differentiate.
    ProviderError, ModelError, BudgetError
        As the sessions do.
    """
    spec = images.spec
    if spec.secant_px is not None:
        return Method(Secants(model, spec), notes=_secant_notes(spec))
    steps = steps_of(model.model)
    # a secant of a stated size has a meaning where the limit has none
    reasons = steps.reasons if spec.step is None or spec.method != "finite_difference" else ()
    if spec.method == "forward":
        try:
            forward = ForwardDifferentiator(model, spec)
        except ModelError as problem:
            raise _with_way_out(problem) from problem
        return Method(forward, skipped=forward.skipped, reasons=reasons, steps=steps)
    differences = FiniteDifference(model, spec)
    if spec.method == "finite_difference":
        _calibrate(differences, images, images.plan, shards, progress)
        return Method(differences, reasons=reasons, steps=steps)
    try:
        forward = ForwardDifferentiator(model, spec)
    except ModelError as problem:
        skipped = (Skipped("method.forward", problem.message),)
        _calibrate(differences, images, images.plan, shards, progress)
        return Method(differences, skipped=skipped, reasons=reasons, steps=steps)
    _calibrate(differences, images, images.plan, shards, progress, for_checks=True)
    return Method(forward, checker=differences, skipped=forward.skipped, reasons=reasons, steps=steps)


def without_forward(
    method: Method, why: str, images: Images, *, shards: ShardStore | None, progress: ProgressCallback | None
) -> Method | None:
    """Return the finite differences that checked forward mode, in its place; None where there are none."""
    if not isinstance(method.checker, FiniteDifference):
        return None
    _calibrate(method.checker, images, images.plan, shards, progress)
    return replace(
        method,
        differentiator=method.checker,
        checker=None,
        skipped=(Skipped("method.forward", why),),
    )


def _secant_notes(spec: AuditSpec) -> tuple[str, ...]:
    note = f"secants of {spec.secant_px:g} px root-mean-square displacement, not the derivative at t = 0"
    if "brightness" in spec.generators:
        note += f"; brightness, which moves no pixel, takes t = {BRIGHTNESS_STEP:g}"
    return (note,)


def _with_way_out(problem: ModelError) -> ModelError:
    """Say of what forward mode cannot do that finite differences can."""
    if "finite_difference" in problem.hint:
        return problem
    hint = "use --method finite_difference, or auto"
    return type(problem)(problem.message, reason=problem.reason, subject=problem.subject, hint=hint)


def recalibrated(
    method: Method, images: Images, plan: Plan, *, shards: ShardStore | None, progress: ProgressCallback | None
) -> Differentiator:
    """Return the method's differentiator for the directions of a plan: finite differences have a step for each."""
    used = method.derivative
    if not isinstance(used, FiniteDifference):
        return used
    other = used.for_other_directions()
    _calibrate(other, images, plan, shards, progress)
    return other


def steps_and_noise(differentiator: Differentiator, plan: Plan) -> dict[str, tuple[float, float]]:
    """Return step and noise of each direction by its name, where finite differences give the numbers."""
    found = differentiator.calibration if isinstance(differentiator, FiniteDifference) else None
    if found is None or found.noise is None:
        return {}
    pairs = zip(found.steps.tolist(), found.noise.tolist(), strict=True)
    return {direction.id: pair for direction, pair in zip(plan.measured, pairs, strict=True)}


def _calibrate(
    differences: FiniteDifference,
    images: Images,
    plan: Plan,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
    *,
    for_checks: bool = False,
) -> None:
    stage = StageProgress(progress, "calibrate", 1)
    calibrate = differences.calibrate_for_checks if for_checks else differences.calibrate

    def compute() -> Arrays:
        indices = images.spread(CHECKING_IMAGES if for_checks else CALIBRATION_IMAGES)
        pixels = images.load(indices)
        found = calibrate(pixels, images.tangents(pixels, plan.measured), images.further.rows(indices))
        noise = {} if found.noise is None else {"noise": found.noise}
        return {"steps": found.steps, "richardson": found.richardson, **noise}

    what = "checks" if for_checks else "calibration"
    arrays, computed = compute_once(shards, f"{what}-{plan.digest}", compute)
    noise = np.asarray(arrays["noise"]) if "noise" in arrays else None
    differences.calibration = Calibration(np.asarray(arrays["steps"]), np.asarray(arrays["richardson"]), noise)
    stage.advance(1, measured=computed)
