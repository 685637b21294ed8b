"""End-to-end audits: in process, and of an uploaded source beside its ONNX model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import lieaudit
from lieaudit.errors import SourceError, SpecError
from lieaudit.metrics.head import Head
from lieaudit.torch import SourceFunction, TorchFiles, audit, export, verify_source

SPEC = lieaudit.AuditSpec(
    generators=("rotation", "translation_x"), bootstrap=100, relative_images=4, threads=1, method="torch"
)


@pytest.fixture(scope="module")
def source(resnet20, cifar, tmp_path_factory):
    """The ResNet's .pt2."""
    path = tmp_path_factory.mktemp("source") / "resnet20.pt2"
    export(resnet20, cifar[:1], with_source=path)
    return path


def test_in_process_equals_the_derivative_written_out(resnet20, cifar):
    report = audit(resnet20, cifar[:6], SPEC, name="net")
    function = SourceFunction(resnet20)
    for generator, result in report.results.items():
        tangents = lieaudit.symmetries.tangent(
            cifar[:6], generator, interpolation="bilinear", padding="reflect", convention="central"
        )
        with torch.no_grad():
            _, moved = torch.func.jvp(
                lambda x: torch.softmax(function(x), 1), (function.tensor(cifar[:6]),), (function.tensor(tangents),)
            )
        expected = (moved**2).sum(1).numpy() / 10
        # on a confident image p·(dz − Σ p dz) cancels to a part in 1e9 of dz, which leaves 1e-7 of its digits
        assert np.allclose(result.per_image, expected, rtol=1e-5, atol=0)
        assert result.lee == pytest.approx(expected.mean(), rel=1e-10)
        assert result.method == "torch"
        assert result.error_bar < 1e-5 * result.lee
        assert result.relative is not None
    assert report.model.name == "net"
    assert report.model.head == "softmax"
    assert report.model.precision == "float64"
    assert report.environment.torch
    assert lieaudit.Report.from_json(report.to_json()) == report


def test_float32_lies_within_its_error_bars(resnet20, cifar, assert_covers):
    exact = audit(resnet20, cifar, SPEC)
    single = audit(resnet20, cifar, SPEC, precision="float32")
    for generator in SPEC.generators:
        a, b = exact.results[generator], single.results[generator]
        error = np.abs(np.array(a.per_image) - np.array(b.per_image))
        assert_covers(error <= np.array(a.per_image_error) + np.array(b.per_image_error))


def test_layerwise_is_part_of_the_report(transformers_models, noise):
    from dataclasses import replace

    model, size = transformers_models["convnext"]
    report = audit(model, noise(3, 3, size), replace(SPEC, layerwise="module", generators=("rotation",)))
    layers = report.layerwise["rotation"]
    assert layers.method == "torch"
    assert sum(segment.share for segment in layers.segments) == pytest.approx(1, abs=1e-10)
    assert sum(total.share for total in layers.by_kind) == pytest.approx(1, abs=1e-10)
    assert layers.by_depth[-1].depth == 1
    assert lieaudit.Report.from_json(report.to_json()) == report


def test_dense_outputs_transform(transformers_models, noise):
    model, size = transformers_models["segformer"]
    report = audit(model, noise(3, 3, size), SPEC)
    assert report.model.head == "spatial"
    assert report.results["rotation"].lee > 0


def test_probabilities_keep_the_identity_head(resnet20, cifar):
    softmaxed = torch.nn.Sequential(resnet20, torch.nn.Softmax(1))
    report = audit(softmaxed, cifar[:4], SPEC)
    plain = audit(resnet20, cifar[:4], SPEC)
    assert report.model.head == "identity"
    assert "probabilities already" in report.checks.head.why
    for generator in SPEC.generators:
        assert report.results[generator].lee == pytest.approx(plain.results[generator].lee, rel=1e-10)


def test_a_source_beside_its_onnx_model(real_dir, source, cifar):
    report = lieaudit.audit(real_dir / "models" / "resnet20_cifar10.onnx", cifar[:6], SPEC, source=TorchFiles(source))
    for result in report.results.values():
        assert result.method == "torch"
        assert result.agreement is not None
        assert result.agreement.verdict in {"agrees", "could_not_check"}
        assert result.agreement.method in {"forward", "finite_difference"}
    assert any("is the function of the ONNX model" in note for note in report.model.notes)
    assert report.status == "ok"


def test_a_source_that_ends_in_the_head_is_the_same_function(resnet20, cifar):
    logits = SourceFunction(resnet20)
    z = logits(logits.tensor(cifar[:8])).detach().numpy()
    head = Head("softmax", spatial=False)
    shifted = torch.nn.Sequential(resnet20, _Shift())
    assert not verify_source(logits, cifar[:8], z, head).head_included
    assert verify_source(SourceFunction(shifted), cifar[:8], z, head).deviation < 1e-12
    softmaxed = torch.nn.Sequential(resnet20, torch.nn.Softmax(1))
    assert verify_source(SourceFunction(softmaxed), cifar[:8], z, head).head_included
    undone = SourceFunction(softmaxed, undo="softmax")
    assert verify_source(undone, cifar[:8], z, head).deviation < 1e-12


class _Shift(torch.nn.Module):
    def forward(self, z):
        return z + 3


def test_another_function_is_refused(real_dir, source, resnet20, cifar):
    with pytest.raises(SourceError, match="largest magnitude") as raised:
        lieaudit.audit(real_dir / "models" / "resnet56_cifar10.onnx", cifar[:4], SPEC, source=TorchFiles(source))
    assert raised.value.reason == "SOURCE_MISMATCH"
    function = SourceFunction(resnet20)
    z = function(function.tensor(cifar[:4])).detach().numpy()
    for wrong in (z * 1.01, z[:, ::-1], z[:, :9]):
        with pytest.raises(SourceError):
            verify_source(function, cifar[:4], wrong, Head("softmax", spatial=False))


def test_no_source_is_a_spec_error(real_dir, cifar):
    with pytest.raises(SpecError, match="torch-source"):
        lieaudit.audit(real_dir / "models" / "resnet20_cifar10.onnx", cifar[:2], SPEC)


def test_without_torch_everything_else_works(repo_root):
    """In a process that cannot import torch: lieaudit imports, and the torch path says what to install."""
    code = """
import sys
sys.modules["torch"] = None
import lieaudit, lieaudit.torch
from lieaudit.errors import MissingPackageError
from lieaudit.torch.containers import check_pt2
for name in lieaudit.torch.__all__:
    if name == "TorchFiles":
        continue
    try:
        getattr(lieaudit.torch, name)
    except MissingPackageError as problem:
        assert problem.reason == "TORCH_NOT_INSTALLED"
        assert "pip install 'lieaudit[torch]'" in str(problem), problem
    else:
        raise AssertionError(name)
try:
    lieaudit.torch.nothing
except AttributeError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_a_module_that_ignores_its_image_is_refused():
    class Forgetful(torch.nn.Module):
        def forward(self, x):
            return torch.arange(4.0).expand(len(x), -1)

    with pytest.raises(SourceError, match="same for every image") as caught:
        audit(Forgetful(), np.zeros((3, 1, 8, 8), np.float32), SPEC)
    assert caught.value.reason == "CONSTANT_OUTPUT"


def test_the_public_names_are_exact():
    assert sorted(lieaudit.torch.__all__) == lieaudit.torch.__all__
    for name in lieaudit.torch.__all__:
        assert getattr(lieaudit.torch, name).__module__.startswith("lieaudit.torch")
