"""Parts whose Lie derivative is known by hand: moments of blobs with a black border, float64 torch JVPs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lieaudit.derivatives.base import Derivatives
from lieaudit.parts import Frame, PartDerivative, PartRows, bind, part_derivative, read_parts
from lieaudit.symmetries import GENERATORS, derivative_matrix, tangents
from lieaudit.symmetries.affine import field_of

torch = pytest.importorskip("torch")
_PATH = Path(__file__).with_name("networks.py")
_SPEC = importlib.util.spec_from_file_location("parts_networks", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)

GEOMETRIC = tuple(name for name in GENERATORS if GENERATORS[name].spatial)
DIAGONAL = ("translation_x", "translation_y", "scale", "stretch_x", "stretch_y")
HEIGHT, WIDTH = 40, 48
TIGHT = 1e-9
"""Float64 sums over two thousand pixels of sizes up to 50: 1e-12 relative; what a wrong formula gives is 1 or more."""


def measured(
    network: torch.nn.Module,
    text: str,
    names: tuple[str, ...],
    images: np.ndarray | None = None,
    **frame: str,
) -> list[PartDerivative]:
    """Differentiate a network in float64 by torch along generators, and read the parts of its one output."""
    images = networks.blobs(3, HEIGHT, WIDTH) if images is None else images
    how = {"interpolation": "bilinear", "padding": "reflect", "convention": "central", **frame}
    directions = tangents(images, names, **how)
    x = torch.from_numpy(images)
    value, moved = None, []
    for d in range(len(names)):
        value, tangent = torch.func.jvp(network, (x,), (torch.from_numpy(directions[:, d]),))
        moved.append(tangent.reshape(len(images), -1).numpy())
    assert value is not None
    derivatives = Derivatives(value.reshape(len(images), -1).numpy(), np.stack(moved, axis=1), (), 1.0)
    bound = bind(read_parts([text]), {"output": tuple(value.shape[1:])}, Frame((HEIGHT, WIDTH), **how))
    fields = [field_of(name, HEIGHT, WIDTH, convention=how["convention"]) for name in names]
    return [part_derivative(derivatives, reading, fields) for reading in bound.readings]


@pytest.mark.parametrize("convention", ["central"])
def test_a_centre_of_mass_moves_exactly_with_the_picture(convention: str) -> None:
    (found,) = measured(networks.Keypoint(HEIGHT, WIDTH), "centre=output:points", GEOMETRIC, convention=convention)
    assert np.abs(found.motion).max() > 1.0
    assert np.abs(found.value).max() < TIGHT
    rows = PartRows.of(found)
    assert rows.inner.sum(axis=0) / rows.square.sum(axis=0) == pytest.approx(np.ones(len(GEOMETRIC)), rel=1e-9)


def test_a_wrong_factor_has_the_lee_worked_out_by_hand() -> None:
    # p = f·c about the first pixel's centre o: dp = −f·v(c) while −v(p) is due, so L = v(p) − f·v(c); by translation
    # along x that is (1 − f)·W, by v = A p + b with p from the grid's centre q = o + centre: (1 − f)(b − A·(o))
    factor = 0.8
    (found,) = measured(networks.Keypoint(HEIGHT, WIDTH, factor), "centre=output:points", GEOMETRIC)
    lee = PartRows.of(found).lee
    for g, name in enumerate(GEOMETRIC):
        field = field_of(name, HEIGHT, WIDTH)
        origin = -np.array([WIDTH - 1, HEIGHT - 1]) / 2
        due = (1 - factor) * (field[:, :2] @ origin + field[:, 2])
        assert lee[:, g] == pytest.approx(np.full(3, due @ due), rel=1e-9, abs=1e-12)
    assert lee[:, GEOMETRIC.index("translation_x")] == pytest.approx(np.full(3, (0.2 * WIDTH) ** 2))
    rows = PartRows.of(found)
    shifts = [GEOMETRIC.index(name) for name in ("translation_x", "translation_y")]
    follow = rows.inner.sum(axis=0) / rows.square.sum(axis=0)
    assert follow[shifts] == pytest.approx([factor, factor])


@pytest.mark.parametrize(
    ("written", "scaled"),
    [
        ("points", lambda p: p),
        ("points,order=yx", lambda p: p.flip(-1)),
        ("points,origin=edge", lambda p: p + 0.5),
        ("points,unit=share", lambda p: (p + 0.5) / torch.tensor([WIDTH, HEIGHT])),
        ("points,unit=share,origin=centre", lambda p: p / torch.tensor([WIDTH - 1, HEIGHT - 1])),
        ("points,unit=grid,strides=8,origin=edge,shape=30x1x2", lambda p: cells(p, 8)),
    ],
)
def test_every_unit_and_origin_places_a_point(written: str, scaled: object) -> None:
    class Network(networks.Keypoint):  # type: ignore[name-defined, misc]
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return scaled(super().forward(image))  # type: ignore[operator]

    (found,) = measured(Network(HEIGHT, WIDTH), f"centre=output:{written}", GEOMETRIC)
    assert np.abs(found.value).max() < 10 * TIGHT
    assert np.abs(found.motion).max() > 1.0


def cells(points: torch.Tensor, stride: int) -> torch.Tensor:
    """Write the one point of every image as what each cell of a grid would say of it: offsets in cells."""
    rows, columns = HEIGHT // stride, WIDTH // stride
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x, y], dim=-1).reshape(1, -1, 1, 2)
    return (points + 0.5)[:, :, None] / stride - corners


def test_anchors_place_points_in_pixels_shares_and_their_own_sizes() -> None:
    anchors = np.array([[3.0, 5.0, 16.0, 8.0], [20.0, 30.0, 4.0, 12.0]])
    at, sizes = torch.from_numpy(anchors[:, :2]), torch.from_numpy(anchors[:, 2:])
    span = torch.tensor([WIDTH, HEIGHT])
    cases = {
        "unit=px": lambda p: p - at,
        "unit=share": lambda p: p / span - at / span,
        "unit=grid": lambda p: (p - at) / sizes,
        "unit=grid,variance=0.1:0.2": lambda p: (p - at) / sizes / 0.1,
    }
    for options, scaled in cases.items():

        class Network(networks.Keypoint):  # type: ignore[name-defined, misc]
            def forward(self, image: torch.Tensor, scaled: object = scaled) -> torch.Tensor:
                return scaled(super().forward(image) + 0.5)  # type: ignore[operator]

        given = anchors / [WIDTH, HEIGHT, WIDTH, HEIGHT] if options == "unit=share" else anchors
        network, images = Network(HEIGHT, WIDTH), networks.blobs(2, HEIGHT, WIDTH)
        z = network(torch.from_numpy(images)).reshape(2, -1).numpy()
        parts = read_parts([f"p=output:points,origin=edge,axis=1,anchors=a.npy,{options}"])
        bound = bind(parts, {"output": (2, 2)}, Frame((HEIGHT, WIDTH)), {"a.npy": given})
        reading = bound.readings[0]
        value = reading.representation.value(reading.raw(z))
        mean = networks.Keypoint(HEIGHT, WIDTH)(torch.from_numpy(images)).numpy() - (np.array([WIDTH, HEIGHT]) - 1) / 2
        assert value == pytest.approx(np.broadcast_to(mean, value.shape), abs=1e-9), options


BOX_FORMS = {
    "boxes,form=cxcywh": lambda b: b,
    "cxcywh": lambda b: b,
    "xyxy": lambda b: torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], dim=-1),
    "xywh": lambda b: torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., 2:]], dim=-1),
    "cxcywh,order=yx": lambda b: b[..., [1, 0, 3, 2]],
    "cxcywh,unit=share": lambda b: b / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]),
    "xyxy,unit=share": lambda b: (
        torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], dim=-1)
        / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    ),
    "cxcywh,unit=grid,strides=8,decode=exp,shape=30x4": lambda b: logarithmic(b, 8),
    "cxcywh,axis=0,shape=4x1": lambda b: b.movedim(-1, 1),
}


def logarithmic(boxes: torch.Tensor, stride: int) -> torch.Tensor:
    """Write the one box of every image as every cell of a grid would, sizes as logarithms."""
    centres = cells(boxes[..., :2] - 0.5, stride)[:, :, 0]
    sizes = torch.log(boxes[..., 2:] / stride).expand(-1, centres.shape[1], -1)
    return torch.cat([centres, sizes], dim=-1)


@pytest.mark.parametrize("form", BOX_FORMS)
def test_boxes_of_second_moments_move_exactly(form: str) -> None:
    written = BOX_FORMS[form]

    class Network(networks.Box):  # type: ignore[name-defined, misc]
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return written(super().forward(image))

    centre, size = measured(Network(HEIGHT, WIDTH), f"boxes=output:{form}", GEOMETRIC)
    assert np.abs(centre.value).max() < 10 * TIGHT
    for g, name in enumerate(GEOMETRIC):
        if name in DIAGONAL:
            assert np.abs(size.value[:, g]).max() < 10 * TIGHT, name
    assert np.abs(size.motion[:, GEOMETRIC.index("scale")]).min() > 1.0


def test_sizes_are_not_judged_where_the_moved_box_is_no_function_of_the_box() -> None:
    bound = bind(read_parts(["b=output:cxcywh"]), {"output": (1, 4)}, Frame((HEIGHT, WIDTH)))
    centre, size = (reading.representation for reading in bound.readings)
    for name in GEOMETRIC:
        field = field_of(name, HEIGHT, WIDTH)
        assert centre.refuses(field) == ""
        assert bool(size.refuses(field)) == (name not in DIAGONAL), name


@pytest.mark.parametrize("unit", ["rad", "deg"])
def test_the_principal_axis_turns_with_the_picture(unit: str) -> None:
    class Network(networks.Axis):  # type: ignore[name-defined, misc]
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) * (180 / np.pi if unit == "deg" else 1.0)

    exact = ("translation_x", "translation_y", "rotation", "scale")
    (found,) = measured(Network(HEIGHT, WIDTH), f"axis=output:angle,unit={unit}", exact)
    assert np.abs(found.value).max() < TIGHT
    assert found.motion[:, 2] == pytest.approx(np.ones((3, 1, 1)))  # curl v = −2: the angle grows by 1 rad per rad


def test_an_angle_moves_as_the_direction_that_it_is_measured_along() -> None:
    # d = (cos θ, sin θ) of a line in the object; the object moves with −v, so its direction with −A d
    bound = bind(read_parts(["a=output:angle"]), {"output": (5,)}, Frame((HEIGHT, WIDTH)))
    angles = np.linspace(-2.0, 2.0, 5)[None, :, None]
    small = 1e-6
    for name in GEOMETRIC:
        matrix = field_of(name, HEIGHT, WIDTH)[:, :2]
        motion = bound.readings[0].representation.motion(angles, field_of(name, HEIGHT, WIDTH))
        line = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
        ahead, behind = (line - sign * small * line @ matrix.T for sign in (1, -1))
        turned = (np.arctan2(ahead[..., 1], ahead[..., 0]) - np.arctan2(behind[..., 1], behind[..., 0])) / (2 * small)
        assert motion[..., 0] == pytest.approx(turned, abs=1e-8), name


def test_the_angle_of_a_box_is_judged_where_angles_stay() -> None:
    bound = bind(read_parts(["a=output:angle,of=box"]), {"output": (5,)}, Frame((HEIGHT, WIDTH)))
    judged = {n for n in GEOMETRIC if not bound.readings[0].representation.refuses(field_of(n, HEIGHT, WIDTH))}
    assert judged == {"translation_x", "translation_y", "rotation", "scale"}


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_a_gradient_is_a_covector_and_no_displacement(layout: str) -> None:
    # g = ∇I of images that fourier interpolation holds: D g[X I] = v · ∇g + Aᵀ g. As a displacement L g = (A + Aᵀ) g:
    # 0 under rotation, 2 g under scale; as scalars L g = Aᵀ g, whose norm is ‖g‖ under both
    how = {"interpolation": "fourier", "padding": "circular"}
    across, down = (derivative_matrix(n, interpolation="fourier", padding="circular") for n in (WIDTH, HEIGHT))
    images = networks.compact(3, HEIGHT, WIDTH)

    class Network(networks.Slope):  # type: ignore[name-defined, misc]
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).movedim(1, -1) if layout == "HWC" else super().forward(image)

    network = Network(across, down)
    names = ("rotation", "scale", "shear_x", "hyperbolic_rotation", "translation_x")

    def of(kind: str) -> np.ndarray:
        return measured(network, f"flow=output:{kind},layout={layout}", names, images, **how)[0].value

    gradient = networks.Slope(across, down)(torch.from_numpy(images)).numpy()
    g = gradient.transpose(0, 2, 3, 1).reshape(3, -1, 2)
    tolerance = 1e-6 * np.abs(g).max()
    covector, displacement, scalars = (of(kind) for kind in ("covector_map", "vector_map", "map"))
    assert np.abs(covector).max() < tolerance
    assert np.abs(displacement[:, 0]).max() < tolerance
    assert displacement[:, 1] == pytest.approx(2 * g, abs=tolerance)
    for d in (0, 1):
        found = np.sum(scalars[:, d] ** 2, axis=(1, 2))
        assert found == pytest.approx(np.sum(g**2, axis=(1, 2)), rel=1e-6)
