"""Uploaded containers: what torch.export writes is read, and nothing planted in one ever runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from lieaudit.errors import SourceError, SpecError
from lieaudit.torch import open_source
from lieaudit.torch.containers import check_safetensors, pickle_imports, read_pt2
from lieaudit.torch.program import ProgramModule


class Planted:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.offset = torch.full((1, 4, 1, 1), 0.5)

    def forward(self, x):
        return torch.nn.functional.relu(self.conv(x) + self.offset).flatten(1)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def archive(module):
    shapes = {"x": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(module, (torch.zeros(2, 3, 6, 6),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def members(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return {name: source.read(name) for name in source.namelist()}


def packed(parts, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, data in parts if isinstance(parts, list) else parts.items():
            target.writestr(name, data)
    return buffer.getvalue()


def part(parts, end):
    return next(name for name in parts if name.endswith(end))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edited(archive, change):
    """Return the archive with its program changed in place by ``change``."""
    parts = members(archive)
    name = part(parts, "models/model.json")
    program = json.loads(parts[name])
    change(program)
    return packed(parts | {name: json.dumps(program).encode()})


def test_reads_what_torch_writes(archive, module):
    program = ProgramModule(read_pt2(archive))
    x = torch.randn(3, 3, 6, 6)
    assert program.batch is None
    # the same operators in the same order on the same weights
    assert torch.equal(program(x), module(x))


@pytest.mark.parametrize(
    "place",
    [
        "data/sample_inputs/model.pt",
        "data/weights/weight_0",
        "data/constants/tensor_0",
        "models/model.json",
        "data/weights/model_weights_config.json",
        "data/constants/model_constants_config.json",
    ],
)
@pytest.mark.parametrize("form", ["bare", "torch.save"])
def test_a_pickle_in_any_member_never_runs(archive, tmp_path, place, form):
    mark = tmp_path / "mark"
    harm = pickle.dumps(Planted(mark)) if form == "bare" else saved(Planted(mark))
    harm += b"." * (-len(harm) % 4)  # a length that tensors of float32 could have
    parts = members(archive)
    path = tmp_path / "model.pt2"
    path.write_bytes(packed(parts | {part(parts, place): harm}))
    with pytest.raises(SourceError) as raised:
        open_source(program=path)
    assert raised.value.reason in {"UNSAFE_PICKLE", "NOT_PT2"}
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/aotinductor/model/code.so",
        "executorch/model.pte",
        "extra/notes.txt",
        "models/second.json",
        "data/weights/../../evil",
    ],
)
def test_members_of_other_kinds_are_refused(archive, tmp_path, name):
    mark = tmp_path / "mark"
    parts = members(archive)
    root = next(iter(parts)).split("/")[0]
    with pytest.raises(SourceError) as raised:
        read_pt2(packed(parts | {f"{root}/{name}": pickle.dumps(Planted(mark))}))
    assert raised.value.reason == "UNSAFE_ARCHIVE"
    assert name in str(raised.value)
    assert not mark.exists()


def test_weights_flagged_as_pickles_are_refused(archive, tmp_path):
    mark = tmp_path / "mark"
    for end, folder in (("model_weights_config.json", "weight_0"), ("model_constants_config.json", "tensor_0")):
        parts = members(archive)
        config = json.loads(parts[part(parts, end)])
        next(iter(config["config"].values()))["use_pickle"] = True
        harm = {part(parts, end): json.dumps(config).encode(), part(parts, folder): saved(Planted(mark))}
        with pytest.raises(SourceError) as raised:
            read_pt2(packed(parts | harm))
        assert raised.value.reason == "UNSAFE_PICKLE"
        assert not mark.exists()


def test_zip_tricks_are_refused(archive):
    parts = members(archive)
    name = part(parts, "models/model.json")
    twice = [*parts.items(), (name, b"{}")]
    with pytest.warns(UserWarning, match="Duplicate"):
        doubled = packed(twice)
    two_roots = packed(parts | {"other/models/model.json": b"{}"})
    absolute = packed(parts | {"/etc/models/model.json": b"{}"})
    squeezed = packed(parts, zipfile.ZIP_DEFLATED)
    for data in (doubled, two_roots, absolute, squeezed):
        with pytest.raises(SourceError) as raised:
            read_pt2(data)
        assert raised.value.reason in {"UNSAFE_ARCHIVE", "NOT_PT2"}


@pytest.mark.parametrize("cut", [0, 1, 10, 1000, -1, -30])
def test_truncated_and_empty_archives_are_refused(archive, cut):
    with pytest.raises(SourceError) as raised:
        read_pt2(archive[:cut])
    assert raised.value.reason in {"NOT_PT2", "UNSAFE_ARCHIVE"}


def test_flipped_bytes_are_refused_or_harmless(archive):
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(archive), 200):
        broken = bytearray(archive)
        broken[position] ^= 0xFF
        try:
            ProgramModule(read_pt2(bytes(broken)))
        except SourceError:
            continue


def first_node(program):
    return program["graph_module"]["graph"]["nodes"][0]


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.load_library.default.x",
        "torch.hub.load",
        "_operator.methodcaller",
        "math.__loader__",
        "#extension:thing",
        "torch.ops.aten.conv2d",
        "torch.ops.aten.conv2d.__globals__",
        "",
        "exec",
    ],
)
def test_only_tensor_operators_are_resolved(archive, target):
    def change(program):
        first_node(program)["target"] = target

    with pytest.raises(SourceError) as raised:
        ProgramModule(read_pt2(edited(archive, change)))
    assert raised.value.reason in {"UNSUPPORTED_PT2", "NOT_PT2"}


def test_text_that_torch_would_evaluate_is_only_text(archive, tmp_path, module):
    mark = tmp_path / "mark"
    harm = f"__import__('os').mkdir({str(mark)!r})"

    def change(program):
        program["guards_code"] = [harm]
        graph = program["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            value["sizes"][0] = {"as_expr": {"expr_str": harm, "hint": None}}
        program["range_constraints"] = {harm: {"min_val": 0, "max_val": 4}}
        for node in graph["nodes"]:
            node["metadata"] = {"stack_trace": f"\n{harm}\n", "nn_module_stack": harm}
            node["name"] = f"x\n{harm}\n"

    program = ProgramModule(read_pt2(edited(archive, change)))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(program(x), module(x))
    assert not mark.exists()


def test_names_that_would_be_code_are_only_names(archive, tmp_path, module):
    mark = tmp_path / "mark"
    parts = members(archive)
    name = part(parts, "models/model.json")
    code = f"x); __import__('os').mkdir({str(mark)!r}) #"
    text = parts[name].decode().replace('"name": "conv2d"', f'"name": {json.dumps(code)}')
    assert code in json.loads(text)["graph_module"]["graph"]["nodes"][0]["name"] + code
    program = ProgramModule(read_pt2(packed(parts | {name: text.encode()})))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(program(x), module(x))
    assert not mark.exists()


def test_weights_that_reach_beyond_their_bytes_are_refused(archive):
    parts = members(archive)
    name = part(parts, "model_weights_config.json")
    for field, value in (("sizes", {"as_int": 10**6}), ("strides", {"as_int": 10**6}), ("storage_offset", None)):
        config = json.loads(parts[name])
        meta = next(iter(config["config"].values()))["tensor_meta"]
        if value is None:
            meta[field] = {"as_int": 10**9}
        else:
            meta[field][0] = value
        with pytest.raises(SourceError) as raised:
            ProgramModule(read_pt2(packed(parts | {name: json.dumps(config).encode()})))
        assert raised.value.reason == "NOT_PT2"


def test_the_scan_knows_harmless_pickles():
    assert pickle_imports(saved(((torch.zeros(2, dtype=torch.float16),), {}))) == []
    assert pickle_imports(saved({"a": torch.nn.Parameter(torch.zeros(2))})) == []
    assert pickle_imports(saved(Planted("x"))) != []
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        buffer = io.BytesIO()
        torch.save(Planted("x"), buffer, pickle_protocol=max(2, protocol))
        assert pickle_imports(buffer.getvalue()) != []
        assert pickle_imports(pickle.dumps(Planted("x"), protocol)) != []
    assert pickle_imports(b"") != []


def test_safetensors_takes_safetensors_only(tmp_path):
    from safetensors.torch import save

    good = save({"w": torch.zeros(3)})
    check_safetensors(good)
    mark = tmp_path / "mark"
    bad = [b"", b"\x00" * 8, good[:-1], good + b"\x00", pickle.dumps(Planted(mark)), saved(Planted(mark))]
    for data in bad:
        path = tmp_path / "w.safetensors"
        path.write_bytes(data)
        for source in (data, path):
            with pytest.raises(SourceError) as raised:
                check_safetensors(source)
            assert raised.value.reason == "NOT_SAFETENSORS"
    assert not mark.exists()


def make_small():
    return Small()


def make_nothing():
    return 3


def make_broken():
    raise RuntimeError("no such file")


FACTORIES = {name: f"test_containers_factories:{name}" for name in ("make_small", "make_nothing", "make_broken")}


@pytest.fixture
def factories(monkeypatch):
    import sys
    import types

    home = types.ModuleType("test_containers_factories")
    for made in (make_small, make_nothing, make_broken):
        setattr(home, made.__name__, made)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    return FACTORIES


def test_a_registered_factory_with_safetensors(factories, module, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file(module.state_dict(), path)
    opened = open_source(factory="make_small", weights=path, factories=factories)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(opened(x), module(x))
    assert not opened.training


def test_factories_and_weights_that_do_not_fit(factories, module, tmp_path):
    from safetensors.torch import save_file

    mark = tmp_path / "mark"
    path = tmp_path / "w.safetensors"
    with pytest.raises(SpecError) as unknown:
        open_source(factory="os:system", factories=factories)
    assert unknown.value.reason == "UNKNOWN_FACTORY"
    for name in ("make_nothing", "make_broken"):
        with pytest.raises(SourceError) as failed:
            open_source(factory=name, factories=factories)
        assert failed.value.reason == "FACTORY_FAILED"
    weights = dict(module.state_dict())
    for change in ({"conv.weight": torch.zeros(4, 3, 5, 5)}, {"more": torch.zeros(1)}, {"conv.bias": None}):
        kept = {name: value for name, value in (weights | change).items() if value is not None}
        save_file(kept, path)
        with pytest.raises(SourceError) as misfit:
            open_source(factory="make_small", weights=path, factories=factories)
        assert misfit.value.reason == "WEIGHTS_MISMATCH"
    path.write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(SourceError) as harmful:
        open_source(factory="make_small", weights=path, factories=factories)
    assert harmful.value.reason == "NOT_SAFETENSORS"
    assert not mark.exists()
    for neither in ({}, {"program": path, "factory": "make_small"}, {"program": path, "weights": path}):
        with pytest.raises(SpecError):
            open_source(**neither)
