"""What the page says to somebody who has not read the paper: what happens now, and what the words mean."""

from __future__ import annotations

from lieaudit_api.v1 import gate_pb2

from lieaudit_client.formats.html.markup import card, text

GLOSSARY = (
    (
        "equivariant",
        "When the image is moved a little, the answer moves along with it, or stays as it is where it should.",
    ),
    (
        "symmetry, generator",
        "One way of moving an image: shifting, turning, zooming, shearing, stretching, brightening.",
    ),
    (
        "LEE",
        "Local equivariance error: how strongly the answer reacts to such a movement. 0 is perfect, smaller is better.",
    ),
    ("LEE/px²", "The same per pixel of movement, so that different symmetries can be compared with each other."),
    (
        "relative",
        "LEE against the reaction to as large a change that is no symmetry: far below 1, the model knows the symmetry.",
    ),
    (
        "95 % interval",
        "Other images would give another number. In 95 of 100 audits a range made like this holds the true one.",
    ),
    ("error bar", "How exactly the number was computed. It is not about which images were taken."),
    ("median, geometric mean", "What a typical image shows; the mean may be carried by a few images."),
    (
        "share",
        "The part of the error that a layer causes. All shares add up to 100 %; a negative one reduces the error.",
    ),
    ("baseline, candidate", "The version in use, and the one that is to replace it."),
    (
        "limit, margin",
        "What the policy allows: a largest value, or how much worse than the baseline is still accepted.",
    ),
    ("inconclusive", "The images do not suffice to decide. It is neither a pass nor a fail; more images may decide."),
    ("waiver", "Somebody has accepted a broken rule until a date; owner and reason stand beside it."),
)


def glossary() -> str:
    """Return the words of the page in plain ones."""
    items = "".join(f"<div><dt>{text(word)}</dt><dd>{text(said)}</dd></div>" for word, said in GLOSSARY)
    return card("words", "In plain words", "", f'<dl class="words">{items}</dl>')


def consequence(decision: gate_pb2.Decision, promote: str | None) -> str:
    """Say what this verdict does: to the job that asked, and to the registry."""
    verdict = decision.verdict
    warned = verdict == "inconclusive" and decision.on_inconclusive == "warn"
    steps = []
    if verdict == "pass":
        steps.append("<strong>Nothing is blocked.</strong> The gate ends with exit code 0, and the job goes on.")
    elif warned:
        steps.append(
            "<strong>Nothing is blocked, with a warning.</strong> The policy only warns where it cannot decide; the "
            "gate ends with exit code 0."
        )
    else:
        code = 1 if verdict == "fail" else 3
        steps.append(
            f"<strong>This version is blocked.</strong> The gate ends with exit code {code}, and the job fails."
        )
    if promote:
        alias = f"<code>{text(promote)}</code>"
        steps.append(
            f"The registry's alias {alias} is moved to this version; the tag <code>lieaudit.promotion</code> says so."
            if verdict == "pass"
            else f"The registry's alias {alias} stays where it is: only a pass moves it."
        )
    if verdict == "fail":
        steps.append("To go on: mend the version, or have the policy's owner waive the rule with a reason and a date.")
    elif verdict == "inconclusive":
        steps.append(f"To decide: {_deciding(decision)}")
    return card("now", "What happens now", "", "<ul>" + "".join(f"<li>{step}</li>" for step in steps) + "</ul>")


def _deciding(decision: gate_pb2.Decision) -> str:
    needed = [rule.images_needed for rule in decision.rules if rule.HasField("images_needed")]
    if needed:
        return f"audit about {max(needed):,} images ({len(needed)} rules cannot be decided on these)."
    return "audit more images, or read below what each undecided rule lacks; <code>--power</code> estimates how many."
