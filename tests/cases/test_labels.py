"""Accuracy: a number that the labels support, or none and the reason."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from lieaudit_client import InvalidInputError
from lieaudit_client.command import options
from lieaudit_client.sources import dataset_source
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import lieaudit
from lieaudit import AuditSpec
from lieaudit.data import Dataset, open_dataset, parse_preprocessing
from lieaudit.errors import SpecError

SIZE, PER_CLASS = 8, 3
SPEC = AuditSpec(
    generators=("translation_x",), head="softmax", threads=1, bootstrap=100, relative_images=0,
    preprocessing=parse_preprocessing("unit"),
)  # fmt: skip


def brightest(classes: int, background: int = 0) -> bytes:
    """A perfect model of as many classes: class k has its bright column at k; ``background`` classes come first."""
    kernel = np.zeros((classes + background, 1, 1, SIZE), np.float32)
    for k in range(classes):
        kernel[k + background, 0, 0, k] = 1
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes + background])
    graph = helper.make_graph(nodes, "net", [image], [logits], [numpy_helper.from_array(kernel, "kernel")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def picture(k: int) -> np.ndarray:
    """An image of class k, uint8 (H, W)."""
    pixels = np.random.default_rng(k).integers(0, 40, (SIZE, SIZE)).astype(np.uint8)
    pixels[:, k] = 250
    return pixels


def folder_of(path, names, *, without=()):
    """Write class folders: the k-th of ``names`` holds images of class k, those of ``without`` no image."""
    for k, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(0 if name in without else PER_CLASS):
            Image.fromarray(picture(k)).save(path / name / f"{i}.png")
    return path


def top1(model, data, **fields):
    """Return the accuracy, and why there is none."""
    import dataclasses

    report = lieaudit.audit(model, data, dataclasses.replace(SPEC, **fields))
    assert not any("top1" in reason for reason in report.reasons)  # it takes nothing from the audit
    inspected = lieaudit.inspect(model, dataclasses.replace(SPEC, **fields), images=data)
    assert inspected.top1 == report.data.top1
    why = [skip.why for skip in report.skipped if skip.what == "data.top1"]
    assert len(why) <= 1
    assert [f"no top-1: {reason}" for reason in why] == [n for n in inspected.notes if n.startswith("no top-1")]
    return report.data.top1, "".join(why)


def test_as_many_folders_as_classes_are_the_classes(tmp_path):
    data = folder_of(tmp_path / "set", ["a", "b", "c"])
    assert top1(brightest(3), open_dataset(data)) == (1.0, "")


def test_a_folder_without_images_is_a_class_all_the_same(tmp_path):
    data = folder_of(tmp_path / "set", ["a", "b", "c"], without="b")
    (data / "b" / "notes.txt").write_text("moved away")
    dataset = open_dataset(data)
    assert top1(brightest(3), dataset) == (1.0, "")
    assert any("1 class folder without an image: b" in note for note in dataset.notes)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_keep_folders_without_images(tmp_path, kind):
    data = folder_of(tmp_path / "set", ["a", "b", "c"], without="b")
    path = tmp_path / f"set.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(data, "wrapper/set")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for found in sorted(data.rglob("*")):
                archive.write(found, f"wrapper/set/{found.relative_to(data)}")
    dataset = open_dataset(path)
    assert dataset.class_folders.empty == ("b",)
    assert top1(brightest(3), dataset) == (1.0, "")


def test_what_the_client_sends_keeps_them_too(tmp_path):
    data = folder_of(tmp_path / "set", ["a", "b", "c"], without="b")
    sent = b"".join(dataset_source(data).chunks())
    (tmp_path / "sent.tar").write_bytes(sent)
    assert open_dataset(tmp_path / "sent.tar").class_folders.empty == ("b",)
    # a set without such folders is sent as before, and so has the digest it had
    Image.fromarray(picture(1)).save(data / "b" / "0.png")
    (tmp_path / "full.tar").write_bytes(b"".join(dataset_source(data).chunks()))
    with tarfile.open(tmp_path / "full.tar") as tar:
        assert all(member.isreg() for member in tar)


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    """A class whose images nobody may read would else be missing without a word."""
    data = folder_of(tmp_path / "set", ["a", "b"])
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InvalidInputError, match=r"set/b: Permission denied"):
        dataset_source(data)
    with pytest.raises(lieaudit.errors.DataError, match=r"set/b cannot be read: Permission denied"):
        open_dataset(data)


def test_fewer_folders_than_classes_are_not_matched(tmp_path):
    dataset = open_dataset(folder_of(tmp_path / "set", ["a_red", "b_green"]))
    found, why = top1(brightest(3), dataset)
    assert found is None
    assert "2 class folders (a_red, b_green)" in why
    assert "3 classes" in why
    assert "--classes FILE" in why


def test_a_list_matches_folders_by_name(tmp_path):
    """By a whole line or by its first word, in any order, as many lines as outputs."""
    dataset = open_dataset(folder_of(tmp_path / "set", ["a", "b", "c"], without="b"))
    model = brightest(4)
    assert top1(model, dataset, classes=("a", "b", "c", "d")) == (1.0, "")
    assert top1(model, dataset, classes=("a first", "b, second", "c", "d")) == (1.0, "")
    assert top1(model, dataset, classes=("c", "b", "a", "d")) == (0.0, "")
    assert "'c' is not among the class names" in top1(model, dataset, classes=("a", "b", "x", "d"))[1]
    assert "'a' stands 2 times among the class names" in top1(model, dataset, classes=("a 1", "a 2", "c", "d"))[1]
    assert top1(model, dataset, classes=("a", "a b", "c", "d")) == (1.0, "")  # the whole line wins over a first word
    with pytest.raises(SpecError, match="3 class names are given, and the model has 4 outputs"):
        lieaudit.audit(model, dataset, AuditSpec(classes=("a", "b", "c"), preprocessing=SPEC.preprocessing))


def test_wnid_folders_of_a_part_of_imagenet(tmp_path):
    """Ten wnids and a model of more classes: only a list says which they are."""
    names = ["n01440764", "n02102040", "n02979186"]
    dataset = open_dataset(folder_of(tmp_path / "set", names))
    assert top1(brightest(5), dataset)[0] is None
    lines = (f"{names[0]} tench, Tinca tinca", f"{names[1]} English springer", f"{names[2]} cassette player", "x", "y")
    assert top1(brightest(5), dataset, classes=lines) == (1.0, "")


def test_folders_named_by_numbers(tmp_path):
    model = brightest(8)
    assert top1(model, open_dataset(folder_of(tmp_path / "all", list("01234567")))) == (1.0, "")
    # "1" … "8" may be counted from 1 or be class numbers: nobody can tell
    counted = open_dataset(folder_of(tmp_path / "counted", list("12345678")))
    assert "named by numbers" in top1(model, counted)[1]
    assert top1(model, counted, class_offset=-1) == (1.0, "")
    assert "from 1 to 8" in top1(model, counted, class_offset=0)[1]


def test_numbers_of_two_digits_are_not_in_sorted_order(tmp_path):
    """Sorted, 10 stands before 2: some tools number by that, people by the number."""
    from lieaudit.data.classes import class_folders, match_classes

    names = [str(i) for i in range(12)]
    folders, numbers = class_folders([f"{name}/x.png" for name in names], names)
    dataset = Dataset.from_arrays(np.zeros((12, 4, 4, 1), np.uint8))
    dataset.class_folders, dataset.labels = folders, numbers
    with pytest.raises(lieaudit.errors.DataError, match="not their places in sorted order"):
        match_classes(dataset, 12)
    assert match_classes(dataset, 12, offset=0).tolist() == list(range(12))


def test_a_background_class_comes_first(tmp_path):
    dataset = open_dataset(folder_of(tmp_path / "set", ["a", "b", "c"]))
    model = brightest(3, background=1)
    found, why = top1(model, dataset)
    assert found is None
    assert "--classes 1" in why
    assert top1(model, dataset, class_offset=1) == (1.0, "")
    for offset in (-1, 0, 2):  # folders and classes would not come out even
        assert "3 class folders" in top1(model, dataset, class_offset=offset)[1]


def arrays(labels):
    x = np.stack([picture(k % SIZE) for k in range(len(labels))])[..., None]
    return Dataset.from_arrays(x, np.array(labels))


def test_labels_outside_the_classes_are_no_accuracy():
    model = brightest(4)
    assert top1(model, arrays([0, 1, 2, 3])) == (1.0, "")
    found, why = top1(model, arrays([1, 2, 3, 4]))
    assert found is None
    assert "the labels run from 1 to 4, and the model has 4 classes, 0 … 3" in why
    assert top1(model, arrays([1, 2, 3, 4]), class_offset=-1) == (1.0, "")
    assert "from -1 to 2" in top1(model, arrays([0, 1, 2, 3]), class_offset=-1)[1]


def test_1001_outputs_need_a_word_about_the_background():
    from lieaudit.data.classes import match_classes

    dataset = arrays([0, 1, 2, 3])
    with pytest.raises(lieaudit.errors.DataError, match=r"--classes 1 that label 0 is class 1"):
        match_classes(dataset, 1001)
    assert match_classes(dataset, 1001, offset=1).tolist() == [1, 2, 3, 4]
    assert match_classes(dataset, 1001, offset=0).tolist() == [0, 1, 2, 3]
    assert match_classes(arrays([0, 1000]), 1001).tolist() == [0, 1000]  # nothing but the whole numbering has a 1000
    assert match_classes(dataset, 1000).tolist() == [0, 1, 2, 3]


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    data = folder_of(tmp_path / "set", ["train", "val"])
    assert "parts of a data set" in top1(brightest(2), open_dataset(data))[1]


def test_an_image_beside_the_class_folders(tmp_path):
    data = folder_of(tmp_path / "set", ["a", "b"])
    Image.fromarray(picture(0)).save(data / "readme.png")
    found, why = top1(brightest(2), open_dataset(data))
    assert found is None
    assert "readme.png lies in no class folder" in why


def test_images_without_folders_have_no_labels_and_nothing_to_say(tmp_path):
    data = folder_of(tmp_path / "set", ["a"])
    assert top1(brightest(2), open_dataset(data)) == (None, "")
    assert top1(brightest(2), Dataset.from_arrays(picture(0)[None, ..., None])) == (None, "")


def test_maps_have_no_classes(tmp_path):
    import dataclasses

    dataset = arrays([0, 1])
    kernel = numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "kernel")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])
    out = helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 2, SIZE, SIZE])
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["c"]), helper.make_node("Tanh", ["c"], ["map"])]
    graph = helper.make_graph(nodes, "net", [image], [out], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    report = lieaudit.audit(model, dataset, dataclasses.replace(SPEC, head="spatial"))
    assert report.data.top1 is None
    assert any(skip.what == "data.top1" for skip in report.skipped)


def test_the_command_takes_a_file_or_an_offset(tmp_path):
    import click

    found = []

    @click.command()
    @options.spec_options
    def command(**values):
        found.append(options.spec_from(values))

    (tmp_path / "classes.txt").write_text("cat\n\n  dog  \n")
    for argument in (str(tmp_path / "classes.txt"), "-1", "0"):
        assert CliRunner().invoke(command, ["--classes", argument]).exit_code == 0
    assert list(found[0].classes) == ["cat", "dog"]
    assert not found[0].HasField("class_offset")
    assert [spec.class_offset for spec in found[1:]] == [-1, 0]
    assert found[2].HasField("class_offset")
    (tmp_path / "empty.txt").write_text("\n")
    for argument in (str(tmp_path / "nothing.txt"), str(tmp_path / "empty.txt"), str(tmp_path)):
        result = CliRunner().invoke(command, ["--classes", argument])
        assert result.exit_code == 2
        assert argument in result.output


def test_a_list_of_classes_survives_json():
    spec = AuditSpec(classes=("a", "b"), class_offset=1)
    assert AuditSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
