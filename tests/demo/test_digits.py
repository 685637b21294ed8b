"""The committed digit models and images are what their README says."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest

from lieaudit.data import open_dataset, parse_preprocessing


@pytest.fixture(scope="module")
def digits_dir(repo_root):
    return repo_root / "examples" / "digits"


def test_the_committed_files_are_small(digits_dir):
    assert sum((digits_dir / f).stat().st_size for f in ("plain.onnx", "augmented.onnx", "digits.npz")) < 200_000


@pytest.mark.parametrize("name", ["plain", "augmented"])
def test_accuracy_is_the_recorded_one(digits_dir, name):
    readme = (digits_dir / "README.md").read_text(encoding="utf-8")
    recorded = float(re.search(rf"^\| {name} \| ([\d.]+) %", readme, re.MULTILINE)[1])
    dataset = open_dataset(digits_dir / "digits.npz")
    x = dataset.load(
        0,
        dataset.count,
        preprocessing=parse_preprocessing("mean=0.15,std=0.3"),
        channels=1,
        height=20,
        width=20,
    )
    session = onnxruntime.InferenceSession(digits_dir / f"{name}.onnx", providers=["CPUExecutionProvider"])
    top1 = 100 * np.mean(session.run(None, {"image": x})[0].argmax(1) == dataset.labels)
    assert round(top1, 1) == recorded


@pytest.mark.parametrize("name", ["plain", "augmented"])
def test_models_keep_module_names_and_tell_nothing_of_the_machine(digits_dir, name):
    model = onnx.load(digits_dir / f"{name}.onnx")
    scopes = " ".join(p.value for node in model.graph.node for p in node.metadata_props)
    assert all(module in scopes for module in ("conv1", "pool1", "conv2", "pool2", "conv3", "classifier"))
    assert b'File "' not in model.SerializeToString()
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
