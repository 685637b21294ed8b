"""The budget that nobody states: a share of what is free, found once, kept with the audit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import running
from lieaudit.errors import SpecError
from lieaudit.runtime import budget
from lieaudit.runtime.budget import UNKNOWN, automatic_budget
from lieaudit.spec import AuditSpec

RANDOM = np.random.default_rng(0)


def linear():
    weights = RANDOM.standard_normal((3 * 8 * 8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a function that says what is free on the host, and in its control group, in MiB."""

    def say(available, group=None, used=0):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available * 1024} kB\n")
        (tmp_path / "memory.max").write_text("max\n" if group is None else f"{group << 20}\n")
        (tmp_path / "memory.current").write_text(f"{used << 20}\n")
        monkeypatch.setattr(budget, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(budget, "_CGROUP", tmp_path)

    return say


@pytest.mark.parametrize(
    ("available", "group", "used", "limit", "found"),
    [
        (16384, None, 0, None, 4096),
        (16383, None, 0, None, 2048),  # powers of two, rounded down
        (10**6, None, 0, None, 8192),
        (100, None, 0, None, 256),
        (16384, 6144, 2048, None, 1024),  # the group's limit, less what it holds
        (16384, 1024, 4096, None, 256),
        (16384, None, 0, 768, 768),
        (16384, None, 0, 16, 16),
    ],
)
def test_a_quarter_of_what_is_free_on_the_host(host, available, group, used, limit, found):
    host(available, group, used)
    assert automatic_budget("cpu", limit=limit) == found


def test_where_nothing_says_what_is_free_it_is_a_fixed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_MEMINFO", tmp_path / "none")
    assert automatic_budget("cpu") == UNKNOWN
    assert automatic_budget("cpu", limit=100) == 100


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ('echo "40000"', 16384),
        ('test "$3" = "--id=1" && echo 10000 || echo 99', 4096),
        ("echo nothing", UNKNOWN),
        ("exit 9", UNKNOWN),
    ],
)
def test_half_of_what_the_driver_says_is_free_on_a_gpu(tmp_path, monkeypatch, script, found):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert automatic_budget("cuda:1") == found


def test_without_the_driver_s_tool_a_gpu_has_a_fixed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert automatic_budget("cuda") == UNKNOWN


def test_the_report_says_the_budget_and_an_audit_that_goes_on_keeps_it(monkeypatch):
    class Shards(dict):
        def put(self, key, data):
            self[key] = data

    images = RANDOM.standard_normal((6, 3, 8, 8)).astype(np.float32)
    spec = AuditSpec(generators=("rotation", "scale"), method="forward", head="softmax", threads=1, bootstrap=100)
    model, shards = linear(), Shards()
    monkeypatch.setattr(running, "automatic_budget", lambda _provider: 333)
    first = lieaudit.audit(model, images, spec, shards=shards)
    assert first.spec["budget_mib"] == 333
    del shards[next(key for key in shards if key.startswith("audit-"))]
    monkeypatch.setattr(running, "automatic_budget", lambda _provider: 444)
    again = lieaudit.audit(model, images, spec, shards=shards)
    assert again.spec == first.spec
    assert again.results == first.results
    assert lieaudit.audit(model, images, spec).spec["budget_mib"] == 444
    stated = AuditSpec(**{**spec.to_dict(), "budget_mib": 64})
    assert lieaudit.audit(model, images, stated, shards=shards).spec["budget_mib"] == 64


@pytest.mark.parametrize("mib", [-1, 1, 15, 2**24 + 1])
def test_what_is_no_budget_is_refused(mib):
    with pytest.raises(SpecError, match="budget_mib"):
        AuditSpec(budget_mib=mib)
