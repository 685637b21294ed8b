"""`lieaudit.jvp` and `lieaudit.vjp`: against torch in float64, by weights, of each other, and what they refuse."""

from __future__ import annotations

import io
import warnings

import lieaudit_client.command
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.differentiation import WARNINGS

FLOAT32 = 1e-5
"""Rounding of a few layers in float32 against float64."""


def run(proto, feeds, outputs=None):
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = outputs or [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def model(nodes, inputs, outputs, weights=None, opset=17, domain=""):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [info(*i) for i in inputs],
        [info(*o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def close(made, expected):
    expected = expected.detach().numpy()
    assert made.shape == expected.shape
    assert np.linalg.norm(made - expected) <= FLOAT32 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def convolutional(torch):
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=4, padding=1),
        nn.GELU(), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 6 * 6, 5),
    )  # fmt: skip


def attentive(torch):
    class Attentive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Linear(3, 16), torch.nn.Linear(16, 2)
            self.block = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

        def forward(self, x):
            return self.head(self.block(self.embed(x)).mean(1))

    return Attentive()


NETWORKS = {"convolutional": (convolutional, (2, 3, 12, 12)), "attentive": (attentive, (4, 7, 3))}


@pytest.fixture(scope="module", params=[(n, e) for n in NETWORKS for e in ("script", "dynamo")], ids="-".join)
def network(request, torch):
    """Gives a network in float64, its graph, and a point."""
    name, exporter = request.param
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = build(torch).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = {"input_names": ["x"], "output_names": ["y"]}
        if exporter == "dynamo":
            axes = {0: torch.export.Dim("batch")} | ({1: torch.export.Dim("tokens")} if name == "attentive" else {})
            proto = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=(axes,), **named
            ).model_proto  # fmt: skip
        else:
            file = io.BytesIO()
            torch.onnx.export(module, (x,), file, dynamo=False, **named)
            proto = onnx.load_from_string(file.getvalue())
    return module.double(), proto, x


def test_vjp_is_torchs_backward(torch, network):
    module, proto, x = network
    point = x.double().requires_grad_()
    y = module(point)
    u = torch.randn(y.shape)
    (expected,) = torch.autograd.grad((y * u.double()).sum(), point)
    made = run(lieaudit.vjp(proto), {"x": x.numpy(), "y.cotangent": u.numpy()})
    assert list(made) == ["y", "x.cotangent"]
    close(made["y"], y)
    close(made["x.cotangent"], expected)


def test_jvp_is_torchs_forward_mode(torch, network):
    module, proto, x = network
    v = torch.randn(3, *x.shape)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.stack([torch.func.jvp(module, (x.double(),), (d.double(),))[1] for d in v])
    for directions in (3, "K"):
        made = run(lieaudit.jvp(proto, directions=directions), {"x": x.numpy(), "x.tangent": v.numpy()})
        close(made["y.tangent"], expected)
    made = run(lieaudit.jvp(proto), {"x": x.numpy(), "x.tangent": v[0].numpy()})
    close(made["y.tangent"], expected[0])


def test_by_weights(torch, network):
    """The gradient by every weight that the exporter kept as it was, under its own name."""
    module, proto, x = network
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    kept = {n: p.detach().numpy() for n, p in module.named_parameters() if n in held}
    own = [n for n, p in kept.items() if held[n].shape == p.shape and np.allclose(held[n], p)]
    assert own
    y = module(x.double())
    u = torch.randn(y.shape)
    expected = dict(
        zip(own, torch.autograd.grad((y * u.double()).sum(), [module.get_parameter(n) for n in own]), strict=True)
    )
    graph = lieaudit.vjp(proto, wrt=own)
    assert [i.name for i in graph.graph.input] == ["x", "y.cotangent"]
    made = run(graph, {"x": x.numpy(), "y.cotangent": u.numpy()})
    for name in own:
        close(made[f"{name}.cotangent"], expected[name])


@pytest.mark.parametrize("order", ["vjp of jvp", "jvp of vjp"])
def test_they_compose_to_a_hessian_product(torch, order):
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    proto = model(
        [helper.make_node("MatMul", ["x", "a"], ["z"]), helper.make_node("Tanh", ["z"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"a": a},
    )
    x, v, u = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 4)
    point = x.double().requires_grad_()
    y = torch.tanh(point @ torch.tensor(a).double())
    (slope,) = torch.autograd.grad((y * u.double()).sum(), point, create_graph=True)
    (expected,) = torch.autograd.grad((slope * v.double()).sum(), point)
    if order == "vjp of jvp":
        graph = lieaudit.vjp(lieaudit.jvp(proto), wrt=["x"], outputs=["y.tangent"])
        feeds = {"x": x.numpy(), "x.tangent": v.numpy(), "y.tangent.cotangent": u.numpy()}
        close(run(graph, feeds)["x.cotangent"], expected)
    else:
        graph = lieaudit.jvp(lieaudit.vjp(proto), active=["x"], outputs=["x.cotangent"])
        feeds = {"x": x.numpy(), "x.tangent": v.numpy(), "y.cotangent": u.numpy()}
        close(run(graph, feeds)["x.cotangent.tangent"], expected)


def test_a_part_of_a_graph(torch):
    proto = _two_inputs()
    graph = lieaudit.jvp(proto, inputs=["z"], outputs=["y"])
    assert [i.name for i in graph.graph.input] == ["z", "z.tangent"]
    z, v = torch.randn(2, 3), torch.randn(2, 3)
    made = run(graph, {"z": z.numpy(), "z.tangent": v.numpy()})
    close(made["y.tangent"], torch.cos(z.double()) * v.double())
    inner = lieaudit.vjp(proto, wrt=["x"], outputs=["z"])
    assert [o.name for o in inner.graph.output] == ["z", "x.cotangent"]


def _two_inputs():
    return model(
        [
            helper.make_node("Cast", ["count"], ["scale"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scale"], ["z"]),
            helper.make_node("Sin", ["z"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["winner"], axis=1),
        ],
        [("x", TensorProto.FLOAT, ["batch", 3]), ("count", TensorProto.INT64, [])],
        [("y", TensorProto.FLOAT, ["batch", 3]), ("winner", TensorProto.INT64, ["batch", 1])],
    )


def test_integers_stay_values():
    """An integer input is fed, an integer output left out."""
    graph = lieaudit.vjp(_two_inputs())
    assert [i.name for i in graph.graph.input] == ["x", "count", "y.cotangent"]
    assert [o.name for o in graph.graph.output] == ["y", "x.cotangent"]
    x = np.array([[0.1, 0.2, 0.3]], np.float32)
    made = run(graph, {"x": x, "count": np.array(2), "y.cotangent": np.ones((1, 3), np.float32)})
    np.testing.assert_allclose(made["x.cotangent"], 2 * np.cos(2 * x), rtol=1e-6)


def test_steps_are_zero_and_said():
    proto = model(
        [helper.make_node("Floor", ["x"], ["f"]), helper.make_node("Add", ["f", "x"], ["y"])],
        [("x", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [3])],
    )
    for graph, name in ((lieaudit.jvp(proto), "x.tangent"), (lieaudit.vjp(proto), "y.cotangent")):
        said = {entry.key: entry.value for entry in graph.metadata_props}[WARNINGS]
        assert "Floor" in said
        made = run(graph, {"x": np.array([0.3, 1.2, -2.5], np.float32), name: np.ones(3, np.float32)})
        np.testing.assert_array_equal(list(made.values())[1], np.ones(3))


def test_double_graphs():
    proto = model(
        [helper.make_node("Exp", ["x"], ["y"])], [("x", TensorProto.DOUBLE, ["n"])], [("y", TensorProto.DOUBLE, ["n"])]
    )
    made = run(lieaudit.vjp(proto), {"x": np.array([1.0, 2.0]), "y.cotangent": np.ones(2)})
    np.testing.assert_allclose(made["x.cotangent"], np.exp([1.0, 2.0]), rtol=1e-15)


def test_an_output_that_is_an_input_is_left_out():
    proto = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [2])],
        [("x", TensorProto.FLOAT, [2]), ("y", TensorProto.FLOAT, [2])],
    )
    assert [o.name for o in lieaudit.vjp(proto, wrt=["x", "x"]).graph.output] == ["y", "x.cotangent"]
    assert [o.name for o in lieaudit.jvp(proto).graph.output] == ["y", "y.tangent"]


def test_what_nothing_depends_on_is_zero():
    proto = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [2]), ("idle", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [2])],
    )
    feeds = {"x": np.ones(2, np.float32), "idle": np.ones(3, np.float32), "y.cotangent": np.ones(2, np.float32)}
    np.testing.assert_array_equal(run(lieaudit.vjp(proto), feeds)["idle.cotangent"], np.zeros(3))


def _unknown_op():
    return model(
        [helper.make_node("Wobble", ["x"], ["y"], domain="acme")],
        [("x", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [3])],
        domain="acme",
    )


def _no_rule():
    return model(
        [helper.make_node("DFT", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 4, 1])],
        [("y", TensorProto.FLOAT, [1, 4, 2])],
    )


def _integers():
    return model(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", TensorProto.INT64, [3])], [("y", TensorProto.INT64, [3])]
    )


def _tied_sizes():
    info = [("x", TensorProto.FLOAT, ["N", 3]), ("z", TensorProto.FLOAT, ["M", 3])]
    return model([helper.make_node("Add", ["x", "z"], ["y"])], info, [("y", TensorProto.FLOAT, None)])


REFUSED = {
    "no such input": (lambda: lieaudit.vjp(_two_inputs(), wrt=["z2"]), "NO_SUCH_INPUT", "z2"),
    "no such input, forward": (lambda: lieaudit.jvp(_two_inputs(), active=["z2"]), "NO_SUCH_INPUT", "z2"),
    "no such output": (lambda: lieaudit.vjp(_two_inputs(), outputs=["q"]), "NO_SUCH_OUTPUT", "q"),
    "integer input": (lambda: lieaudit.jvp(_two_inputs(), active=["count"]), "INPUT_NOT_FLOAT", "count"),
    "integer output": (lambda: lieaudit.vjp(_two_inputs(), outputs=["winner"]), "OUTPUT_NOT_FLOAT", "winner"),
    "integers only": (lambda: lieaudit.jvp(_integers()), "INPUT_NOT_FLOAT", "x"),
    "unknown op": (lambda: lieaudit.vjp(_unknown_op()), "UNKNOWN_OP", "Wobble"),
    "no rule": (lambda: lieaudit.vjp(_no_rule()), "NO_TRANSPOSE", "DFT"),
    "a name taken": (lambda: lieaudit.jvp(lieaudit.jvp(_two_inputs()), active=["x"]), "NAME_TAKEN", "x.tangent"),
    "no directions": (lambda: lieaudit.jvp(_two_inputs(), directions=0), "DIRECTIONS_INVALID", "directions"),
    "fewer directions": (lambda: lieaudit.jvp(_two_inputs(), directions=-2), "DIRECTIONS_INVALID", "directions"),
    "nothing to differentiate": (lambda: lieaudit.vjp(_two_inputs(), outputs=[]), "NOTHING_NAMED", "to differentiate"),
    "nothing to differentiate by": (lambda: lieaudit.jvp(_two_inputs(), active=[]), "NOTHING_NAMED", "by"),
    "open sizes that must agree": (lambda: lieaudit.vjp(_tied_sizes()), "GRAPH_NOT_RUNNABLE", "Add"),
    "no file": (lambda: lieaudit.vjp("nowhere.onnx"), "MODEL_NOT_FOUND", "nowhere.onnx"),
    "no ONNX": (lambda: lieaudit.vjp(b"hello"), "NOT_ONNX", "ONNX"),
    "half a graph": (
        lambda: lieaudit.jvp(_two_inputs(), inputs=["scale"], outputs=["y"]),
        "SEGMENT_UNBOUNDED",
        "scale",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    call, reason, named = REFUSED[case]
    with pytest.raises(lieaudit.LieauditError) as refused:
        call()
    assert refused.value.reason == reason
    assert named in str(refused.value) or named in refused.value.subject
    assert "--method" not in refused.value.hint


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
def test_command(tmp_path, monkeypatch, capsys, mode):
    monkeypatch.chdir(tmp_path)
    onnx.save(_two_inputs(), "m.onnx")
    assert lieaudit_client.command.run(["differentiate", "m.onnx", "--mode", mode, "--out", "d.onnx"]) == 0
    expected = lieaudit.jvp("m.onnx") if mode == "jvp" else lieaudit.vjp("m.onnx")
    assert onnx.load("d.onnx") == expected
    assert ("x.tangent" if mode == "jvp" else "x.cotangent") in capsys.readouterr().err


def test_command_with_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(_two_inputs(), "m.onnx")
    call = [
        "differentiate",
        "m.onnx",
        "--mode",
        "jvp",
        "--wrt",
        "x",
        "--output",
        "z",
        "--directions",
        "4",
        "--out",
        "d.onnx",
    ]
    assert lieaudit_client.command.run(call) == 0
    assert onnx.load("d.onnx") == lieaudit.jvp("m.onnx", active=["x"], outputs=["z"], directions=4)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["--mode", "vjp", "--wrt", "nobody"], "NO_SUCH_INPUT"),
        (["--mode", "vjp", "--directions", "3"], "--directions"),
        (["--mode", "jvp", "--directions", "-1"], "DIRECTIONS_INVALID"),
        (["--mode", "both"], "both"),
    ],
)
def test_command_refuses(tmp_path, monkeypatch, capsys, further, said):
    monkeypatch.chdir(tmp_path)
    onnx.save(_two_inputs(), "m.onnx")
    assert lieaudit_client.command.run(["differentiate", "m.onnx", "--out", "d.onnx", *further]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "d.onnx").exists()


def test_by_a_tensor_inside(torch):
    """The cotangent that reaches a tensor inside is the gradient by it, whether or not the inputs move too."""
    a, b = (np.random.default_rng(i).standard_normal((3, 3)).astype(np.float32) for i in (1, 2))
    proto = model(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "b"], ["z"]),
            helper.make_node("Add", ["z", "h"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", "tokens", 3])],
        [("y", TensorProto.FLOAT, ["batch", "tokens", 3])],
        {"a": a, "b": b},
    )
    x, u, v = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    point = x.double().requires_grad_()
    h = point @ torch.tensor(a).double()
    y = torch.tanh(h) @ torch.tensor(b).double() + h
    by_x, by_h = torch.autograd.grad((y * u.double()).sum(), (point, h))
    for wrt in (["h"], ["x", "h"]):
        made = run(lieaudit.vjp(proto, wrt=wrt), {"x": x.numpy(), "y.cotangent": u.numpy()})
        close(made["h.cotangent"], by_h)
        if "x" in wrt:
            close(made["x.cotangent"], by_x)
    moved = run(lieaudit.jvp(proto, active=["h"]), {"x": x.numpy(), "h.tangent": v.numpy()})
    inner = torch.sum(by_h * v.double())
    assert float(np.vdot(moved["y.tangent"], u.numpy())) == pytest.approx(float(inner), rel=FLOAT32)
