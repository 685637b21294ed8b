"""Every C_k against the float64 torch Jacobian of the conjugated network F(α), with hooks on the matching modules.

The action X is written out anew here (central differences, reflection about edge pixels), so that nothing of the
measured path is in the oracle.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

GENERATORS = ("translation_x", "rotation", "scale")


def gradient(h, axis):
    """Central difference along an axis, reflected about the centres of the edge pixels."""
    h = h.movedim(axis, -1)
    padded = torch.cat([h[..., 1:2], h, h[..., -2:-1]], dim=-1)
    return ((padded[..., 2:] - padded[..., :-2]) / 2).movedim(-1, axis)


def act_on_map(h, generator):
    """Return X h of (n, C, H, W)."""
    height, width = h.shape[-2:]
    y = torch.arange(height, dtype=h.dtype)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=h.dtype)[None, :] - (width - 1) / 2
    vx, vy = {"translation_x": (width + 0 * x, 0 * y), "rotation": (y, -x), "scale": (x, y)}[generator]
    return vx * gradient(h, -1) + vy * gradient(h, -2)


def act_on_tokens(h, generator, prefix, grid):
    """Return X h of (n, prefix + H·W, C)."""
    n, _, channels = h.shape
    maps = h[:, prefix:].transpose(1, 2).reshape(n, channels, *grid)
    moved = act_on_map(maps, generator).reshape(n, channels, -1).transpose(1, 2)
    return torch.cat([torch.zeros_like(h[:, :prefix]), moved], dim=1)


def jacobian(model, x, segments, act):
    """Return ∂ softmax F / ∂α_k at 0, (segments, n, K).

    ``segments`` maps a name to the modules whose inputs are conjugated before and the module whose output is conjugated
    after, each as (module, "input" or "output").
    """
    names = list(segments)

    def conjugated(alpha):
        handles = []
        for k, name in enumerate(names):
            before, after = segments[name]
            for (module, place), sign in [(b, 1.0) for b in before] + [(a, -1.0) for a in after]:

                def on_input(_m, args, k=k, sign=sign):
                    return tuple(h + sign * alpha[k] * act(h) for h in args)

                def on_output(_m, _args, out, k=k, sign=sign):
                    return out + sign * alpha[k] * act(out)

                hook = module.register_forward_pre_hook if place == "input" else module.register_forward_hook
                handles.append(hook(on_input if place == "input" else on_output))
        out = torch.softmax(model(x), dim=1)
        for handle in handles:
            handle.remove()
        return out

    zero = torch.zeros(len(names), dtype=x.dtype)
    with torch.no_grad():
        columns = torch.func.jacfwd(conjugated)(zero)
    return columns.movedim(-1, 0).numpy()


def check(found, expected, g):
    """Compare each contribution; rounding of a float32 row is at most some 1e-6 of the largest."""
    assert set(expected) == set(found.names)
    largest = max(np.linalg.norm(c) for c in expected.values())
    for name, c in expected.items():
        error = np.linalg.norm(found.by_name(name)[:, g] - c)
        assert error <= 1e-4 * np.linalg.norm(c) + 2e-6 * largest, name


def images(height, width, count=1):
    return np.random.default_rng(5).standard_normal((count, 3, height, width)).astype(np.float32)


def test_resnet18(tools):
    torch.manual_seed(3)
    model = tools.resnet18().eval()
    tools.randomise(model)
    x = images(48, 64)
    found = tools.attribute(tools.export(model, 48, 64), GENERATORS, images=x)
    double = model.double()
    modules = dict(double.named_modules())
    # the segments that do not commute are leaf modules; one module, one input, one output
    segments = {
        name: ([(modules[name], "input")], [(modules[name], "output")]) for name in found.names if name != "average"
    }
    for g, generator in enumerate(GENERATORS):
        reference = jacobian(
            double, torch.tensor(x, dtype=torch.float64), segments, lambda h, v=generator: act_on_map(h, v)
        )
        expected = dict(zip(segments, reference, strict=True))
        # the average ends in a vector, on which nothing acts
        average = {"average": ([(modules["average"], "input")], [])}
        expected["average"] = jacobian(
            double, torch.tensor(x, dtype=torch.float64), average, lambda h, v=generator: act_on_map(h, v)
        )[0]
        check(found, expected, g)
    assert len(found.names) == 1 + 1 + 1 + 16 + 16 + 3 + 1  # stem, relu, pool, 3×3, relu, strided shortcuts, average


def test_vit_tiny(tools):
    torch.manual_seed(4)
    height, width, patch = 48, 64, 16
    model = tools.vit(height, width, prefix=1, patch=patch, dim=192, depth=12, heads=3).eval()
    tools.randomise(model)
    x = images(height, width)
    found = tools.attribute(tools.export(model, height, width), GENERATORS, images=x)
    double = model.double()
    grid = (height // patch, width // patch)
    modules = dict(double.named_modules())
    segments = {}
    for name in found.names:
        if name == "patch":
            segments[name] = ([(modules[name], "input")], [(modules[name], "output")])
        elif name == "embedding":
            segments[name] = ([(modules["patch"], "output")], [(modules["embedding"], "output")])
        else:
            segments[name] = ([(modules[name], "input")], [(modules[name], "output")])

    for g, generator in enumerate(GENERATORS):

        def act(h, generator=generator):
            return act_on_map(h, generator) if h.ndim == 4 else act_on_tokens(h, generator, 1, grid)

        reference = jacobian(double, torch.tensor(x, dtype=torch.float64), segments, act)
        check(found, dict(zip(segments, reference, strict=True)), g)
    # patch embedding, positional embedding, per block two norms, attention and activation, last norm
    assert len(found.names) == 2 + 12 * 4 + 1
