"""What blur ahead of every strided convolution does to a network that is not trained again: top-1, before and after.

The trained models and images are those of ``../shared/real``, or of the directory that ``LIEAUDIT_REAL`` names.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

import lieaudit

Array = npt.NDArray[Any]
REAL = Path(os.environ.get("LIEAUDIT_REAL") or Path(__file__).resolve().parents[2] / "shared" / "real")
CIFAR = "cifar10_test_1017.npz"
IMAGENET = lieaudit.Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CASES = (
    ("resnet20_cifar10", IMAGENET),
    ("resnet56_cifar10", IMAGENET),
    ("cnn_small_nhwc_cifar10", lieaudit.Preprocessing()),
)


def blurred(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Put the binomial filter [1 2 1]/4, per channel, ahead of every convolution with a stride; return how many."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = {w.name: numpy_helper.to_array(w) for w in changed.graph.initializer}
    nodes, count = [], 0
    for node in changed.graph.node:
        strides = next((a.ints for a in node.attribute if a.name == "strides"), [1])
        if node.op_type == "Conv" and max(strides) > 1:
            channels = weights[node.input[1]].shape[1]
            kernel = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
            name = f"blur_{count}"
            changed.graph.initializer.append(
                numpy_helper.from_array(np.broadcast_to(kernel, (channels, 1, 3, 3)).copy(), name)
            )
            nodes.append(
                helper.make_node("Conv", [node.input[0], name], [f"{name}_out"], group=channels, pads=[1, 1, 1, 1])
            )
            node.input[0], count = f"{name}_out", count + 1
        nodes.append(node)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed, count


def main() -> None:
    if not REAL.is_dir():
        sys.exit(f"no trained models at {REAL}: set LIEAUDIT_REAL")
    images = _arrays(REAL / "images" / CIFAR)
    print("| model | strided convolutions | top-1 | with blur ahead of them, not trained |\n|---|---|---|---|")
    for name, preprocessing in CASES:
        model = onnx.load(REAL / "models" / f"{name}.onnx")
        changed, count = blurred(model)
        before, after = (accuracy(m, images, preprocessing) for m in (model, changed))
        print(f"| {name} | {count} | {before:.1%} | {after:.1%} |")


def _arrays(path: Path) -> tuple[Array, Array]:
    with np.load(path) as arrays:
        return arrays["x"], arrays["y"]


def accuracy(model: onnx.ModelProto, data: tuple[Array, Array], preprocessing: lieaudit.Preprocessing) -> float:
    """Return top-1 as ``lieaudit inspect`` measures it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        spec = lieaudit.AuditSpec(preprocessing=preprocessing)
        found = lieaudit.inspect(path, spec, images=data[0], labels=data[1]).top1
    assert found is not None
    return found
