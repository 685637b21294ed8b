"""Which file of a downloaded registered model is the ONNX model; a hostile description names none elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from lieaudit_client import InvalidInputError
from lieaudit_client.registries.mlmodel import onnx_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "model"
    (found / "part").mkdir(parents=True)
    for name in ("model.onnx", "part/other.onnx"):
        (found / name).write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.onnx").write_bytes(b"secret")
    return found


def describe(folder: Path, data: str) -> None:
    (folder / "MLmodel").write_text(f"flavors:\n  onnx:\n    data: {data}\n", encoding="utf-8")


def test_the_flavour_names_the_file(folder: Path) -> None:
    assert [f.name for f in onnx_files(folder)] == ["model.onnx", "other.onnx"]
    describe(folder, "part/other.onnx")
    assert [f.name for f in onnx_files(folder)] == ["other.onnx"]
    describe(folder, "part")
    assert [f.name for f in onnx_files(folder)] == ["other.onnx"]
    (folder / "MLmodel").write_text("flavors:\n  python_function: {}\n", encoding="utf-8")
    assert len(onnx_files(folder)) == 2


@pytest.mark.parametrize("data", ["../secret", "/etc/passwd", "part/../../secret", "../elsewhere", "link.onnx"])
def test_a_file_elsewhere_is_never_sent(folder: Path, data: str) -> None:
    (folder / "link.onnx").symlink_to(folder.parent / "secret")
    describe(folder, data)
    with pytest.raises(InvalidInputError, match="outside the model's folder") as caught:
        onnx_files(folder)
    assert caught.value.reason == "MODEL_FILE_OUTSIDE"


@pytest.mark.parametrize("text", ["", "[1]", "flavors: 3", "flavors: {onnx: 3}", "a: [", "\x00"])
def test_a_description_that_is_none_is_said(folder: Path, text: str) -> None:
    (folder / "MLmodel").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInputError) as caught:
        onnx_files(folder)
    assert caught.value.reason == "INVALID_MLMODEL"
