"""Secants of a stated size against float64 secants of the original graphs, by flows and sampling written here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from lieaudit_client.command import run
from lieaudit_server.embedded import EmbeddedServer
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from scipy.ndimage import map_coordinates

from lieaudit import AuditSpec, audit
from lieaudit.errors import SpecError
from lieaudit.symmetries import GENERATORS, step_of_size, velocity_field

Array = npt.NDArray[np.float64]
GENERATORS_SHOWN = ("translation_x", "rotation", "scale")


def moved(images: Array, generator: str, t: float) -> Array:
    """T_t of images (n, C, H, W): bilinear, mirrored about the centres of the edge pixels."""
    height, width = images.shape[-2:]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    cx, cy = x - (width - 1) / 2, y - (height - 1) / 2
    if generator == "translation_x":
        sx, sy = cx + t * width, cy
    elif generator == "rotation":
        sx, sy = np.cos(t) * cx + np.sin(t) * cy, np.cos(t) * cy - np.sin(t) * cx
    else:
        sx, sy = np.exp(t) * cx, np.exp(t) * cy
    at = [sy + (height - 1) / 2, sx + (width - 1) / 2]
    planes = images.reshape(-1, height, width)
    return np.stack([map_coordinates(p, at, order=1, mode="mirror") for p in planes]).reshape(images.shape)


def size_to_t(generator: str, pixels: float, height: int, width: int) -> float:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    square = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2
    return pixels / (width if generator == "translation_x" else float(np.sqrt(square.mean())))


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def network(seed: int = 0, size: int = 12) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.4, (8, 3, 3, 3)), "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.25, (8, 8, 3, 3)), "b2": rng.normal(0, 0.1, 8),
        "w3": rng.normal(0, 1.0, (8, 5)), "b3": rng.normal(0, 0.1, 5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["h2"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["h2"], ["a2"]), helper.make_node("GlobalAveragePool", ["a2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]), helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Rows(CalibrationDataReader):
    def __init__(self, name: str, images: npt.NDArray[np.float32]) -> None:
        self._rows = iter([{name: row[None]} for row in images])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self._rows, None)


def quantised(source: Path, target: Path, name: str, images: npt.NDArray[np.float32]) -> Path:
    """Quantise by onnxruntime's own quantiser: int8 weights and activations."""
    quantize_static(
        str(source), str(target), Rows(name, images), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return target


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with EmbeddedServer() as target:
        yield target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with float.onnx, int8.onnx made of it by onnxruntime, and smooth images."""
    place = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (96, 3, 18, 18))
    smooth = sum(noise[:, :, i : i + 12, j : j + 12] for i in range(5) for j in range(5)) / 4
    images = np.asarray(smooth, np.float32)
    onnx.save(network(), place / "float.onnx")
    quantised(place / "float.onnx", place / "int8.onnx", "x", images[:32])
    np.savez(place / "x.npz", x=images)
    return place


def in_float64(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The graph itself in numpy, its weights and arithmetic in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    copy.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return ReferenceEvaluator(copy)


def reference(answer: object, images: Array, generator: str, pixels: float) -> Array:
    """Return ‖S‖²/K per image of a function on images, softmax in float64."""
    t = size_to_t(generator, pixels, *images.shape[-2:])
    ahead, behind = (softmax(np.asarray(answer(moved(images, generator, s * t)), np.float64)) for s in (1, -1))  # type: ignore[operator]
    return np.asarray(np.mean(((ahead - behind) / (2 * t)) ** 2, axis=1))


@pytest.mark.parametrize("pixels", [0.25, 1.0])
@pytest.mark.parametrize("name", ["float", "int8"])
def test_a_secant_is_that_of_the_original_graph_in_float64(pair: Path, name: str, pixels: float) -> None:
    images = np.load(pair / "x.npz")["x"][:24]
    spec = AuditSpec(generators=GENERATORS_SHOWN, secant_px=pixels, head="softmax", threads=1)
    found = audit(pair / f"{name}.onnx", images, spec)
    assert found.status == "ok", "a step of stated size is measured, also of a piecewise constant function"
    if name == "float":
        evaluator = in_float64(onnx.load(pair / "float.onnx"))

        def answer(rows: Array) -> Array:
            return np.asarray(evaluator.run(None, {"x": rows})[0])
    else:  # what int8 arithmetic gives is what onnxruntime gives: steps, and not the rounding of float32
        session = onnxruntime.InferenceSession(pair / "int8.onnx", providers=["CPUExecutionProvider"])

        def answer(rows: Array) -> Array:
            return np.asarray(session.run(None, {"x": rows.astype(np.float32)})[0])

    for generator in GENERATORS_SHOWN:
        right = reference(answer, images.astype(np.float64), generator, pixels)
        result = found.results[generator]
        off = np.abs(np.array(result.per_image) - right)
        bars = np.array(result.per_image_error)
        # a unit of rounding may put an activation on the other side of a step: such an image says so by its bar
        assert np.mean(off <= bars + 1e-9 * right.mean()) >= 0.9, generator
        assert abs(result.lee - right.mean()) <= 3 * result.error_bar + 1e-6 * right.mean()
        assert result.method == "secant"
        assert (result.secant_px, result.step) == (pixels, pytest.approx(size_to_t(generator, pixels, 12, 12)))
        assert result.lee > 0


def test_the_smaller_the_secant_the_nearer_the_derivative(pair: Path) -> None:
    images = np.load(pair / "x.npz")["x"][:8].astype(np.float32)
    exact = audit(pair / "float.onnx", images, AuditSpec(generators=("rotation",), method="forward", head="softmax"))
    off = []
    for pixels in (0.4, 0.001):
        spec = AuditSpec(generators=("rotation",), secant_px=pixels, head="softmax")
        secant = audit(pair / "float.onnx", images, spec)
        off.append(abs(secant.results["rotation"].lee / exact.results["rotation"].lee - 1))
    # bilinear interpolation blurs as it moves, an effect of first order in the size: 1/400 of 0.4 px's
    assert off[1] < off[0] / 10
    assert off[1] < 0.01


def test_int8_goes_through_the_gate_against_float32(pair: Path, service: str) -> None:
    """Verdict and interval by paired secants; the ratio is that of the original graphs' secants."""
    (pair / "p.yaml").write_text(
        "version: 1\nsecant_px: 0.5\nimages: {min: 32}\nrules:\n"
        "  - {id: no-worse, kind: noninferiority, generators: [rotation, scale], margin: 0.5}\n"
        "  - {id: coarser, kind: noninferiority, generators: brightness, margin: 1.5}\n"  # steps are seen at 1 %
    )
    code = run([
        "gate", str(pair / "int8.onnx"), "--baseline", str(pair / "float.onnx"), "--data", str(pair / "x.npz"),
        "--policy", str(pair / "p.yaml"), "--head", "softmax", "--server", service, "--json", str(pair / "d.json"),
    ])  # fmt: skip
    decision = json.loads((pair / "d.json").read_text())
    assert (code, decision["verdict"], decision["secant_px"]) == (0, "pass", 0.5)
    images = np.load(pair / "x.npz")["x"]
    evaluator = in_float64(onnx.load(pair / "float.onnx"))
    session = onnxruntime.InferenceSession(pair / "int8.onnx", providers=["CPUExecutionProvider"])
    for rule in decision["rules"]:
        said = "secants of t = 0.01" if rule["generator"] == "brightness" else "secants of 0.5 px"
        assert said in rule["sentence"]
        assert rule["interval"][0] <= rule["value"] <= rule["interval"][1]
        if rule["generator"] == "brightness":
            continue
        theirs = reference(
            lambda x: evaluator.run(None, {"x": x})[0], images.astype(np.float64), rule["generator"], 0.5
        )
        mine = reference(
            lambda x: session.run(None, {"x": x.astype(np.float32)})[0],
            images.astype(np.float64), rule["generator"], 0.5,
        )  # fmt: skip
        assert rule["value"] == pytest.approx(mine.mean() / theirs.mean(), rel=2e-3)


def test_what_the_policy_decides_on_is_what_the_reports_hold(
    pair: Path, service: str, capfd: pytest.CaptureFixture[str]
) -> None:
    report = pair / "half.json"
    code = run([
        "audit", str(pair / "float.onnx"), "--data", str(pair / "x.npz"), "--head", "softmax",
        "--generators", "rotation", "--step", "0.5px", "--server", service, "--json", str(report),
    ])  # fmt: skip
    assert code == 0
    policy = pair / "quarter.yaml"
    policy.write_text(
        "version: 1\nsecant_px: 0.25\nrules:\n  - {id: c, kind: limit, generators: rotation, max: 1.0e+6}\n"
    )
    assert run(["gate", str(report), "--policy", str(policy), "--server", service]) == 2
    assert "--step 0.25px" in capfd.readouterr().err
    asked = ["--data", str(pair / "x.npz"), "--policy", str(policy), "--server", service, "--step", "0.5px"]
    assert run(["gate", str(pair / "float.onnx"), *asked]) == 2
    assert "the policy decides on 0.25 px" in capfd.readouterr().err


def test_a_map_is_carried_back_by_the_flow() -> None:
    """A gain that grows along x does not commute with shifts: S = (T_−t g T_t − T_t g T_−t) I / 2t, written out."""
    size, pixels = 10, 1.0
    gain = np.linspace(0.5, 1.5, size).astype(np.float32)[None, None, None]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "g"], ["y"])], "gain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, size, size])],
        [numpy_helper.from_array(gain, "g")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = np.random.default_rng(0).normal(0, 1, (4, 1, size, size)).astype(np.float32)
    spec = AuditSpec(generators=("translation_x", "rotation"), secant_px=pixels, head="spatial", padding="circular")
    found = audit(model, images, spec)
    # one pixel is t = 1/size, and circular shifts of whole pixels are permutations
    ahead = np.roll(gain * np.roll(images, -1, axis=3), 1, axis=3)
    behind = np.roll(gain * np.roll(images, 1, axis=3), -1, axis=3)
    right = np.mean(((ahead - behind) * size / 2.0) ** 2, axis=(1, 2, 3), dtype=np.float64)
    assert found.results["translation_x"].per_image == pytest.approx(right, rel=1e-5)
    plain = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["x"], ["y"])], "plain", graph.input, graph.output
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    there_and_back = audit(plain, images, spec).results["translation_x"]
    assert max(there_and_back.per_image) == 0, "whole pixels there and back are no change"


@pytest.mark.parametrize("name", GENERATORS)
def test_a_step_has_the_size_that_is_stated(name: str) -> None:
    t = step_of_size(name, 0.5, 9, 14)
    if name == "brightness":
        assert t == 0.01
        return
    field = velocity_field(name, 9, 14, convention="central") * t
    assert np.sqrt(np.mean(np.sum(field**2, axis=0))) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secant_px": 0.0}, "not a size"),
        ({"secant_px": float("nan")}, "not a size"),
        ({"secant_px": 0.5, "step": 0.1}, "not in both"),
        ({"secant_px": 0.5, "method": "forward"}, "not by forward"),
        ({"secant_px": 0.5, "convention": "reference"}, "a secant has a size"),
        ({"secant_px": 0.5, "layerwise": "op"}, "limit t → 0"),
        ({"method": "secant"}, "--step 0.5px"),
    ],
)
def test_what_contradicts_a_secant_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        AuditSpec(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0px", "-1px", "px", "nan", "infpx", "half", "1 pixel"])
def test_a_step_that_is_none_is_bad_usage(pair: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", str(pair / "float.onnx"), "--data", str(pair / "x.npz"), "--step", text]
    assert run(arguments) == 2
    assert "like 0.5px" in capfd.readouterr().err


def opened(path: Path) -> onnxruntime.InferenceSession:
    """The shared int8 graph from real-valued pixels to its logits: the image's DequantizeLinear written as x·scale."""
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(n for n in graph.node if n.op_type == "Transpose" and n.input[0] == graph.input[0].name)
    real = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == first.output[0])
    scale, zero = (constants[name].astype(np.float32) for name in real.input[1:3])
    graph.initializer.extend([numpy_helper.from_array(scale, "s_real"), numpy_helper.from_array(zero, "z_real")])
    at = list(graph.node).index(real)
    graph.node.remove(real)
    graph.node.insert(at, helper.make_node("Mul", ["x_moved", "s_real"], list(real.output)))
    graph.node.insert(at, helper.make_node("Sub", [first.output[0], "z_real"], ["x_moved"]))
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    softmax = next(n for n in graph.node if n.op_type == "Softmax")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(softmax.input[0], TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.real
def test_a_trained_network_and_its_int8_version_go_through_the_gate(
    real_dir: Path, service: str, tmp_path: Path
) -> None:
    """The ratio is that of secants of the graphs as they were published, float64 in everything but the graphs."""
    models, data = real_dir / "models", real_dir / "images" / "cifar10_test_1017.npz"
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "version: 1\nsecant_px: 0.5\nimages: {min: 16}\nrules:\n"
        "  - {id: int8, kind: noninferiority, generators: [rotation, translation_x], margin: 9}\n"
    )
    code = run([
        "gate", str(models / "resnet8_cifar10_int8.onnx"), "--baseline", str(models / "resnet8_cifar10.onnx"),
        "--data", str(data), "--preprocess", "scale=1,mean=128", "--baseline-preprocess", "none", "--max-images", "32",
        "--policy", str(policy), "--threads", "1", "--server", service, "--json", str(tmp_path / "d.json"),
    ])  # fmt: skip
    decision = json.loads((tmp_path / "d.json").read_text())
    assert (code, decision["verdict"]) in {(0, "pass"), (3, "inconclusive")}
    pixels = np.load(data)["x"][:32].astype(np.float64).transpose(0, 3, 1, 2)
    steps = opened(models / "resnet8_cifar10_int8.onnx")
    plain = onnxruntime.InferenceSession(models / "resnet8_cifar10.onnx", providers=["CPUExecutionProvider"])

    def log_probabilities(rows: Array) -> Array:  # softmax of the logarithm of probabilities is the probabilities
        found = plain.run(None, {"input_1": rows.astype(np.float32).transpose(0, 2, 3, 1)})[0]
        return np.log(np.maximum(found.astype(np.float64), 1e-300))

    def logits(rows: Array) -> Array:
        return np.asarray(steps.run(None, {"input_1_int8": (rows - 128).astype(np.float32).transpose(0, 2, 3, 1)})[0])

    for rule in decision["rules"]:
        mine = reference(logits, pixels, rule["generator"], 0.5).mean()
        theirs = reference(log_probabilities, pixels, rule["generator"], 0.5).mean()
        # float32 probabilities carry 1e-7 of rounding; a step of int8 may fall on its other side
        assert rule["baseline_value"] == pytest.approx(theirs, rel=1e-3)
        assert rule["candidate_value"] == pytest.approx(mine, rel=2e-2)
        assert rule["interval"][0] < mine / theirs < rule["interval"][1]
