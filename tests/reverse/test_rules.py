"""Each transposition rule by itself, over random shapes and attributes: ⟨u, A v⟩ = ⟨Aᵀ u, v⟩.

A graph of one node is linear in one operand; no tangent rule takes part. Every op of the table that is linear in an
operand has a draw here, or says why it has no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lieaudit.graph.forward.rewrite import Rewritten
from lieaudit.graph.reverse.transpose import transpose
from lieaudit.ops import OPS

ROUNDING = 1e-6
"""Two float32 evaluations of sums of a few hundred products."""


@dataclass
class Draw:
    """One node: its inputs in order, of which ``moving`` is the linear one; None leaves an input out."""

    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    moving: int = 0
    outputs: int = 1
    opset: int = 18


Drawer = Callable[[np.random.Generator], Draw]


def f(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def shape(random: np.random.Generator, low: int = 1, high: int = 4, most: int = 5) -> tuple[int, ...]:
    return tuple(int(size) for size in random.integers(1, most, int(random.integers(low, high + 1))))


def axis_of(random: np.random.Generator, rank: int) -> int:
    return int(random.integers(-rank, rank))


def broadcast(random: np.random.Generator, count: int) -> list[np.ndarray]:
    full = shape(random)
    arrays = []
    for _ in range(count):
        cut = int(random.integers(0, len(full) + 1))
        arrays.append(f(random, *(1 if random.random() < 0.3 else size for size in full[cut:])))
    return arrays


def elementwise(count: int, operands: int | None = None) -> Drawer:
    def draw(random: np.random.Generator) -> Draw:
        arrays = broadcast(random, count)
        return Draw(list(arrays), moving=int(random.integers(0, operands or count)))

    return draw


def quotient(random: np.random.Generator) -> Draw:
    a, b = broadcast(random, 2)
    return Draw([a, np.abs(b) + 0.5])


def where(random: np.random.Generator) -> Draw:
    c, a, b = broadcast(random, 3)
    return Draw([c > 0, a, b], moving=int(random.integers(1, 3)))


def unary(random: np.random.Generator) -> Draw:
    return Draw([f(random, *shape(random))])


def cast(random: np.random.Generator) -> Draw:
    return Draw([f(random, *shape(random))], {"to": int(TensorProto.DOUBLE)})


def cast_like(random: np.random.Generator) -> Draw:
    return Draw([f(random, *shape(random)), np.zeros(1, np.float64)])


def reshape(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    return Draw([x, i(*random.permutation(x.shape).tolist(), 1) if random.random() < 0.5 else i(-1)])


def flatten(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    return Draw([x], {"axis": axis_of(random, x.ndim)})


def squeeze(random: np.random.Generator) -> Draw:
    sizes = list(shape(random))
    place = int(random.integers(0, len(sizes) + 1))
    sizes.insert(place, 1)
    return Draw([f(random, *sizes), i(place)])


def unsqueeze(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    return Draw([x, i(axis_of(random, x.ndim + 1))])


def transposed(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    return Draw([x], {"perm": random.permutation(x.ndim).tolist()} if random.random() < 0.8 else {})


def concat(random: np.random.Generator) -> Draw:
    sizes = shape(random)
    axis = axis_of(random, len(sizes))
    parts = []
    for _ in range(3):
        own = list(sizes)
        own[axis] = int(random.integers(1, 4))
        parts.append(f(random, *own))
    return Draw(list(parts), {"axis": axis}, moving=int(random.integers(0, 3)))


def tile(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    return Draw([x, random.integers(1, 4, x.ndim)])


def expand(random: np.random.Generator) -> Draw:
    full = shape(random)
    cut = int(random.integers(0, len(full)))
    return Draw([f(random, *(1 if random.random() < 0.5 else size for size in full[cut:])), i(*full)])


def split(random: np.random.Generator) -> Draw:
    sizes = list(shape(random))
    axis = axis_of(random, len(sizes))
    parts = random.integers(1, 4, 3)
    sizes[axis] = int(parts.sum())
    return Draw([f(random, *sizes), parts], {"axis": axis}, outputs=3)


def slice_(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random, most=8))
    axes = random.permutation(x.ndim)[: int(random.integers(1, x.ndim + 1))]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        a, b = sorted(random.integers(0, size + 1, 2).tolist())
        step = int(random.choice([1, 1, 2, 3, -1, -2]))
        a, b = (a, max(b, a + 1)) if step > 0 else (max(b, a + 1) - 1, a - 1 if a else -size - 1)
        starts.append(a if random.random() < 0.7 or a >= size else a - size)
        ends.append(b if step < 0 or random.random() < 0.7 else 1 << 40 if b == size else b)
        steps.append(step)
    return Draw([x, i(*starts), i(*ends), axes, i(*steps)])


def gather(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    axis = axis_of(random, x.ndim)
    size = x.shape[axis]
    return Draw([x, random.integers(-size, size, shape(random, 0, 2))], {"axis": axis})


def gather_elements(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    axis = axis_of(random, x.ndim)
    sizes = list(x.shape)
    sizes[axis] = int(random.integers(1, 6))
    return Draw([x, random.integers(-x.shape[axis], x.shape[axis], sizes)], {"axis": axis})


def gather_nd(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random, 2))
    batch = int(random.integers(0, x.ndim))
    depth = int(random.integers(1, x.ndim - batch + 1))
    sizes = x.shape[batch : batch + depth]
    rows = (*x.shape[:batch], *shape(random, 0 if batch else 1, 2))
    indices = np.stack([random.integers(-size, size, rows) for size in sizes], -1)
    return Draw([x, indices], {"batch_dims": batch})


def reverse_sequence(random: np.random.Generator) -> Draw:
    x = f(random, *(int(v) for v in random.integers(2, 5, 3)))
    batch = int(random.integers(0, 2))
    lengths = random.integers(1, x.shape[1 - batch] + 1, x.shape[batch])
    return Draw([x, lengths], {"batch_axis": batch, "time_axis": 1 - batch})


def compress(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    axis = axis_of(random, x.ndim) if random.random() < 0.7 else None
    length = x.size if axis is None else x.shape[axis]
    kept = random.random(length) < 0.6
    kept[0] = True
    return Draw([x, kept], {} if axis is None else {"axis": axis})


def trilu(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random, 2))
    return Draw([x, np.array(random.integers(-2, 3))], {"upper": int(random.integers(0, 2))})


def scatter_elements(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    axis = axis_of(random, x.ndim)
    sizes = list(x.shape)
    sizes[axis] = int(random.integers(1, x.shape[axis] + 1))
    indices = np.argsort(random.random(x.shape), axis=axis)
    indices = np.take(indices, range(sizes[axis]), axis=axis)
    kind = str(random.choice(["none", "add"]))
    return Draw([x, indices, f(random, *sizes)], {"axis": axis, "reduction": kind}, moving=int(random.choice([0, 2])))


def scatter_nd(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random, 2))
    depth = int(random.integers(1, x.ndim + 1))
    spots = np.stack(np.meshgrid(*(np.arange(s) for s in x.shape[:depth]), indexing="ij"), -1).reshape(-1, depth)
    chosen = random.permutation(spots)[: int(random.integers(1, len(spots) + 1))]
    updates = f(random, len(chosen), *x.shape[depth:])
    return Draw(
        [x, chosen, updates], {"reduction": str(random.choice(["none", "add"]))}, moving=int(random.choice([0, 2]))
    )


def scatter(random: np.random.Generator) -> Draw:
    draw = scatter_elements(random)
    draw.attributes.pop("reduction")
    return draw


def convolution(random: np.random.Generator) -> Draw:
    n = int(random.choice([1, 2, 2, 3]))
    group = int(random.choice([1, 1, 2, 4]))
    channels, made = 4 * int(random.integers(1, 3)), 4 * int(random.integers(1, 3))
    kernel = random.integers(1, 4, n).tolist() if random.random() < 0.7 else [1] * n
    attributes: dict[str, Any] = {
        "group": group, "strides": random.integers(1, 4, n).tolist(), "dilations": random.integers(1, 3, n).tolist(),
    }  # fmt: skip
    automatic = str(random.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if automatic != "NOTSET":
        attributes["auto_pad"] = automatic
        if automatic.startswith("SAME"):
            attributes["dilations"] = [1] * n  # onnxruntime takes no other
    elif random.random() < 0.7:
        attributes["pads"] = random.integers(0, 4, 2 * n).tolist()
    x = f(random, 2, channels, *(int(v) for v in random.integers(6, 9, n)))
    weights = f(random, made, channels // group, *kernel)
    return Draw([x, weights], attributes, moving=int(random.integers(0, 2)))


def conv_transpose(random: np.random.Generator) -> Draw:
    n = int(random.choice([1, 2, 2]))
    group = int(random.choice([1, 1, 2]))
    kernel, strides = random.integers(1, 4, n), random.integers(1, 4, n)
    attributes: dict[str, Any] = {"group": group, "strides": strides.tolist()}
    x = f(random, 2, 4, *(int(v) for v in random.integers(3, 6, n)))
    form = int(random.integers(0, 4))
    if form == 0:
        attributes["auto_pad"] = str(random.choice(["SAME_UPPER", "SAME_LOWER"]))
        kernel = np.maximum(kernel, strides)
    elif form == 1:
        attributes["output_shape"] = [
            int(s * (size - 1) + k) for s, size, k in zip(strides, x.shape[2:], kernel, strict=True)
        ]
    else:
        attributes["dilations"] = random.integers(1, 3, n).tolist()
        attributes["output_padding"] = [int(random.integers(0, s)) for s in strides]
        reach = [(k - 1) * d for k, d in zip(kernel, attributes["dilations"], strict=True)]
        attributes["pads"] = [int(random.integers(0, r // 2 + 1)) for r in [*reach, *reach]]
    weights = f(random, 4, int(random.integers(1, 4)), *kernel.tolist())
    return Draw([x, weights], attributes, moving=int(random.integers(0, 2)))


def matmul(random: np.random.Generator) -> Draw:
    m, k, n = (int(v) for v in random.integers(1, 5, 3))
    batch = shape(random, 0, 2)
    sides = []
    for matrix in ((m, k), (k, n)):
        cut = int(random.integers(0, len(batch) + 1))
        own = [1 if random.random() < 0.3 else size for size in batch[cut:]]
        sides.append((*own, *matrix) if random.random() < 0.75 else (k,))
    return Draw([f(random, *side) for side in sides], moving=int(random.integers(0, 2)))


def gemm(random: np.random.Generator) -> Draw:
    m, k, n = (int(v) for v in random.integers(1, 5, 3))
    ta, tb = (int(v) for v in random.integers(0, 2, 2))
    c = f(random, *[(m, n), (1, n), (n,), (m, 1), ()][int(random.integers(0, 5))])
    attributes = {
        "transA": ta,
        "transB": tb,
        "alpha": float(random.random() + 0.5),
        "beta": float(random.random() + 0.5),
    }
    a, b = f(random, *((k, m) if ta else (m, k))), f(random, *((n, k) if tb else (k, n)))
    return Draw([a, b, c], attributes, moving=int(random.integers(0, 3)))


EQUATIONS = [
    "ij,jk->ik", "bhqd,bhkd->bhqk", "bij,bj->bi", "ij->i", "ij->", "ii->i", "bii->b", "ij,ij->", "i,j->ij",
    "ij,kj,lk->il", "...ij,...jk->...ik", "...i,ij->...j", "ij,jk", "bchw,cd->bdhw", "iij,j->i",
]  # fmt: skip


def einsum(random: np.random.Generator) -> Draw:
    equation = str(random.choice(EQUATIONS))
    sizes = {letter: int(random.integers(1, 5)) for letter in sorted(set(equation) - set(".,->"))}
    dots = shape(random, 0, 2)
    terms = equation.split("->", maxsplit=1)[0].split(",")
    arrays = []
    for term in terms:
        lead = [1 if random.random() < 0.3 else size for size in dots] if "..." in term else []
        arrays.append(f(random, *lead, *(sizes[letter] for letter in term.replace("...", ""))))
    return Draw(list(arrays), {"equation": equation}, moving=int(random.integers(0, len(terms))))


def reduced(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    axes = random.permutation(x.ndim)[: int(random.integers(0, x.ndim + 1))]
    attributes = {"keepdims": int(random.integers(0, 2)), "noop_with_empty_axes": int(random.integers(0, 2))}
    return Draw([x, i(*axes.tolist())], attributes)


def cumulative(random: np.random.Generator) -> Draw:
    x = f(random, *shape(random))
    attributes = {"exclusive": int(random.integers(0, 2)), "reverse": int(random.integers(0, 2))}
    return Draw([x, np.array(axis_of(random, x.ndim))], attributes)


def average_pool(random: np.random.Generator) -> Draw:
    n = int(random.choice([1, 2, 3]))
    kernel = random.integers(1, 4, n)
    attributes: dict[str, Any] = {"kernel_shape": kernel.tolist(), "count_include_pad": int(random.integers(0, 2))}
    sizes = [int(v) for v in random.integers(5, 9, n)]
    form = int(random.integers(0, 4))
    if form == 0:
        attributes["strides"] = kernel.tolist()
        sizes = [int(k) * int(random.integers(1, 4)) for k in kernel]
    else:
        attributes["strides"] = random.integers(1, 4, n).tolist()
        if form == 1:
            attributes["auto_pad"] = str(random.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
            attributes["strides"] = [min(s, int(k)) for s, k in zip(attributes["strides"], kernel, strict=True)]
        elif form == 2:
            attributes["pads"] = [int(random.integers(0, k)) for k in [*kernel, *kernel]]
        else:
            attributes["ceil_mode"] = 1
    return Draw([f(random, 2, 3, *sizes)], attributes)


def global_average_pool(random: np.random.Generator) -> Draw:
    return Draw([f(random, 2, 3, *shape(random, 1, 3))])


def pad(random: np.random.Generator) -> Draw:
    x = f(random, *(int(v) for v in random.integers(3, 6, int(random.integers(1, 5)))))
    mode = str(random.choice(["constant", "reflect", "edge", "wrap"]))
    low = -1 if mode == "constant" else 0
    axes = random.permutation(x.ndim)[: int(random.integers(1, x.ndim + 1))]
    pads = random.integers(low, 3, 2 * len(axes))
    if mode == "constant" and random.random() < 0.3:
        return Draw([x, np.abs(pads), f(random), axes], {"mode": mode}, moving=2, opset=19)
    return Draw([x, pads, None, axes], {"mode": mode}, opset=19)


def resize(random: np.random.Generator) -> Draw:
    mode = str(random.choice(["nearest", "linear", "cubic"]))
    x = f(random, 2, 2, *(int(v) for v in random.integers(2, 7, 2)))
    way = str(random.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize"]))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": way}
    if mode == "cubic":
        attributes |= {
            "cubic_coeff_a": -0.5,
            "exclude_outside": int(way != "tf_crop_and_resize" and random.integers(0, 2)),
        }
    roi = (
        np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
        if way == "tf_crop_and_resize"
        else np.zeros(0, np.float32)
    )
    if random.random() < 0.5:
        scales = np.array([1, 1, *random.choice([0.5, 0.7, 1, 1.5, 2, 3], 2)], np.float32)
        if all(int(size * scale) > 0 for size, scale in zip(x.shape, scales, strict=True)):
            return Draw([x, roi, scales], attributes)
    return Draw([x, roi, None, i(2, 2, *random.integers(1, 12, 2).tolist())], attributes)


def upsample(random: np.random.Generator) -> Draw:
    scales = np.array([1, 1, *random.choice([1, 2, 3], 2)], np.float32)
    mode = str(random.choice(["nearest", "linear"]))
    return Draw([f(random, 2, 2, 3, 4), scales], {"mode": mode}, opset=9)


def depth_to_space(random: np.random.Generator) -> Draw:
    block = int(random.integers(1, 4))
    x = f(random, 2, block**2 * int(random.integers(1, 3)), *(int(v) for v in random.integers(1, 4, 2)))
    return Draw([x], {"blocksize": block, "mode": str(random.choice(["DCR", "CRD"]))})


def space_to_depth(random: np.random.Generator) -> Draw:
    block = int(random.integers(1, 4))
    return Draw([f(random, 2, 3, *(block * int(v) for v in random.integers(1, 4, 2)))], {"blocksize": block})


def columns(random: np.random.Generator) -> Draw:
    block, strides, pads = random.integers(1, 4, 2), random.integers(1, 3, 2), random.integers(0, 2, 4)
    dilations = random.integers(1, 3, 2)
    size = random.integers(6, 9, 2)
    count = (size + pads[:2] + pads[2:] - dilations * (block - 1) - 1) // strides + 1
    x = f(random, 2, 3 * int(np.prod(block)), int(np.prod(count)))
    return Draw([x, size, block], {"strides": strides.tolist(), "pads": pads.tolist(), "dilations": dilations.tolist()})


def grid_sample(random: np.random.Generator) -> Draw:
    x = f(random, 2, 3, *(int(v) for v in random.integers(2, 6, 2)))
    grid = np.asarray(random.uniform(-1.5, 1.5, (2, 3, 4, 2)), np.float32)
    attributes = {
        "mode": str(random.choice(["bilinear", "nearest", "bicubic"])),
        "padding_mode": str(random.choice(["zeros", "border", "reflection"])),
        "align_corners": int(random.integers(0, 2)),
    }
    return Draw([x, grid], attributes, opset=16)


DRAWS: dict[str, Drawer] = {
    "Add": elementwise(2), "Sub": elementwise(2), "Sum": elementwise(3), "Mean": elementwise(3), "Mul": elementwise(2),
    "Div": quotient, "Where": where, "Neg": unary, "Identity": unary, "Dropout": unary, "Cast": cast,
    "CastLike": cast_like, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Transpose": transposed, "Concat": concat, "Tile": tile, "Expand": expand, "Split": split, "Slice": slice_,
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "ReverseSequence": reverse_sequence,
    "Compress": compress, "Trilu": trilu, "ScatterElements": scatter_elements, "Scatter": scatter,
    "ScatterND": scatter_nd, "Conv": convolution, "ConvTranspose": conv_transpose, "MatMul": matmul, "Gemm": gemm,
    "Einsum": einsum, "ReduceSum": reduced, "ReduceMean": reduced, "CumSum": cumulative, "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool, "Pad": pad, "Resize": resize, "Upsample": upsample,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Col2Im": columns, "GridSample": grid_sample,
}  # fmt: skip

OLD = {"Scatter", "Upsample"}
"""Not in any opset that reverse mode takes: they are other ops there."""

LINEAR = sorted(op.name for op in OPS.values() if op.linear)


def linear_graph(op: str, draw: Draw) -> tuple[Rewritten, dict[str, np.ndarray]]:
    """Return the graph of one node as if it were the tangents of a larger one."""
    names = ["" if x is None else "v.tangent" if k == draw.moving else f"c{k}" for k, x in enumerate(draw.inputs)]
    outputs = [f"y{k}.tangent" for k in range(draw.outputs)]
    node = helper.make_node(op, names, outputs, **draw.attributes)
    constants = [
        numpy_helper.from_array(np.asarray(x), n) for x, n in zip(draw.inputs, names, strict=True) if n[:1] == "c"
    ]
    moving = draw.inputs[draw.moving]
    dtype = helper.np_dtype_to_tensor_dtype(moving.dtype)
    made = TensorProto.DOUBLE if op in {"Cast", "CastLike"} else dtype
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("v.tangent", dtype, moving.shape)],
        [helper.make_tensor_value_info(name, made, None) for name in outputs],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", draw.opset)], ir_version=8)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    rewritten = Rewritten(model, (), ("v.tangent",), (), tuple(outputs), (), {}, unrolled=True)
    return rewritten, {"v": moving}


@pytest.mark.parametrize("op", sorted(set(DRAWS) - OLD))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rule(adjoint_gap, op, seed):
    draw = DRAWS[op](np.random.default_rng(seed))
    rewritten, value = linear_graph(op, draw)
    assert adjoint_gap(rewritten, transpose(rewritten), {}, shapes=value) < ROUNDING


@pytest.mark.parametrize("op", LINEAR)
def test_every_linear_op_has_a_rule_or_says_why_not(op):
    """Every operand in which an op is linear is transposed, or the entry says why it is not."""
    for entry in OPS.values():
        if entry.name != op or not entry.linear:
            continue
        assert entry.transpose is not None
        operands = [k for k in range(8) if k in entry.linear]
        without = [k for k in operands if k not in entry.transpose.operands]
        assert not without or entry.transpose.without
        assert (entry.transpose.apply is None) == (without == operands)
        assert entry.transpose.apply is None or op in DRAWS
