"""Convolutions, pooling, padding, resizing. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np
import pytest


def lp(power, size=2, pad=0):
    """The norm over square windows."""

    def function(x):
        padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        total = (np.abs(windows) ** power).sum(axis=(-1, -2))
        return total ** (1 / power)

    return function


def transposed(weight):
    """Torch's, with what output_shape asks for cut off in front."""

    def function(x):
        torch = pytest.importorskip("torch")
        w = torch.tensor(weight).double()
        full = torch.nn.functional.conv_transpose2d(torch.tensor(x), w, stride=2, groups=2, dilation=(1, 2))
        return full[..., 1:].numpy()

    return function


def largest(x):
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (1, 0)], constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (2, 2), axis=(2, 3))[:, :, ::2, ::2].max(axis=(-1, -2))


def unfinished(x):
    """The last window along each axis has two pixels."""
    return lp(2, 3)(np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)]))[:, :, ::2, ::2]


def stretched(image):
    """Linear interpolation at i / scale, along both axes."""

    def along(x, scale):
        at = np.arange(int(len(x) * scale)) / scale
        first = np.minimum(np.floor(at).astype(int), len(x) - 1)
        last, part = np.minimum(first + 1, len(x) - 1), (at - first)[:, None]
        return x[first] * (1 - part) + x[last] * part

    return lambda k: along(along(image, k[0]).T, k[1]).T


def sampled(x, g):
    sample = pytest.importorskip("torch").nn.functional.grid_sample
    make = pytest.importorskip("torch").tensor
    return sample(make(x), make(g), padding_mode="border", align_corners=True).numpy()


def global_lp(power):
    return lambda x: (np.abs(x) ** power).sum(axis=(2, 3), keepdims=True) ** (1 / power)


def region_maxima(x, regions, size=2):
    """Faster R-CNN's pooling (Girshick 2015): maxima of size × size windows of whole pixels, shared borders and all."""
    made = []
    for image, left, top, right, bottom in regions.astype(int):
        rows, columns = (
            [(start + (k * n) // size, start - (-(k + 1) * n) // size) for k in range(size)]
            for start, n in ((top, bottom - top + 1), (left, right - left + 1))
        )
        made.append([[[x[image, c, a:b, d:e].max() for d, e in columns] for a, b in rows] for c in range(x.shape[1])])
    return np.array(made)


def cases(r, p, i):
    smooth = np.fromfunction(lambda n, c, y, x: np.sin(0.3 * y + n) + c * 0.2 * x, (2, 3, 6, 6)).astype(np.float32)
    turned, upright = r(4, 2, 3, 3), r(2, 4, 4, 4)
    regions = np.array([[0, 0, 0, 3, 3], [1, 1, 1, 5, 4]], np.float32)
    d = {"x": r(2, 4, 5, 5), "w": r(4, 2, 3, 3), "o": 0.3 * r(2, 36, 5, 5), "b": r(4), "m": p(2, 18, 5, 5)}
    form = {
        "pads": [1, 1, 1, 1],
        "offset_group": 2,
        "group": 2,
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "dilations": [1, 1],
    }
    kinks = {"o": 0.1}  # the step of the difference crosses pixels of a random image
    deformed = [
        (
            f"deform-{k}",
            "DeformConv",
            {k: d[k]},
            {n: v for n, v in d.items() if n != k},
            form,
            {"opset": 19, "order": list(d), "expect": "next" if k == "o" else "exact", "tolerance": kinks.get(k)},
        )
        for k in d
    ]
    return [
        ("conv", "Conv", {"x": r(2, 4, 7, 6)}, {"w": r(6, 2, 3, 3), "b": r(6)}, {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2]}, {}),
        ("conv-same", "Conv", {"x": r(2, 3, 7, 6)}, {"w": r(4, 3, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
        ("conv-dilated", "Conv", {"x": r(2, 3, 9, 9)}, {"w": r(4, 3, 3, 3)}, {"dilations": [2, 2]}, {}),
        ("conv-1d", "Conv", {"x": r(2, 3, 9)}, {"w": r(4, 3, 3)}, {}, {}),
        ("conv-transpose", "ConvTranspose", {"x": r(2, 3, 4, 4)}, {"w": r(3, 2, 3, 3), "b": r(2)}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, {}),
        ("average-pool", "AveragePool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
        ("average-pool-count", "AveragePool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}),
        ("global-average", "GlobalAveragePool", {"x": r(2, 3, 5, 4)}, {}, {}, {}),
        ("max-pool", "MaxPool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
        ("max-pool-7", "MaxPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, {"opset": 7}),
        ("max-pool-ceil", "MaxPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {}),
        ("global-max", "GlobalMaxPool", {"x": r(2, 3, 5, 4)}, {}, {}, {}),
        ("lp-pool", "LpPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "p": 3}, {}),
        ("pad-7", "Pad", {"x": r(2, 3, 4, 4)}, {}, {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 3.0}, {"opset": 7}),
        ("pad-11", "Pad", {"x": r(2, 3, 4)}, {"p": i(0, 1, 2, 0, 0, 1), "v": np.array(3, np.float32)}, {}, {}),
        ("pad-reflect", "Pad", {"x": r(2, 3, 4)}, {"p": i(0, 0, 2, 0, 0, 1)}, {"mode": "reflect"}, {}),
        ("pad-edge", "Pad", {"x": r(2, 3, 4)}, {"p": i(0, 1, 2, 0, 0, 1)}, {"mode": "edge"}, {}),
        ("pad-axes", "Pad", {"x": r(2, 3, 4)}, {"p": i(2, 1), "a": i(-1)}, {}, {"opset": 18, "order": ["x", "p", "", "a"]}),
        ("depth-to-space", "DepthToSpace", {"x": r(2, 8, 3, 3)}, {}, {"blocksize": 2, "mode": "CRD"}, {}),
        ("space-to-depth", "SpaceToDepth", {"x": r(2, 3, 4, 4)}, {}, {"blocksize": 2}, {}),
        ("resize-linear", "Resize", {"x": r(2, 3, 4, 5)}, {"k": np.array([1, 1, 2, 1.6], np.float32)}, {"mode": "linear"}, {"order": ["x", "", "k"]}),
        ("resize-sizes", "Resize", {"x": r(2, 3, 4, 5)}, {"k": i(2, 3, 7, 8)}, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, {"order": ["x", "", "", "k"]}),
        ("resize-cubic", "Resize", {"x": r(2, 3, 6, 5)}, {"k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "cubic"}, {"order": ["x", "", "k"]}),
        ("grid-sample", "GridSample", {"x": r(2, 3, 5, 5)}, {"g": np.tanh(r(2, 4, 4, 2))}, {}, {"opset": 16}),
        ("conv-weight", "Conv", {"w": r(4, 3, 3, 3)}, {"x": r(2, 3, 7, 6)}, {}, {"order": ["x", "w"]}),
        ("conv-bias", "Conv", {"b": r(4)}, {"x": r(2, 3, 5, 5), "w": r(4, 3, 3, 3)}, {"kernel_shape": [3, 3]}, {"order": ["x", "w", "b"]}),
        ("conv-both", "Conv", {"x": r(1, 4, 7, 6), "w": r(6, 2, 3, 3), "b": r(6)}, {}, {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2]}, {}),
        ("conv-weight-groups", "Conv", {"w": r(6, 2, 3, 2)}, {"x": r(3, 4, 7, 6)}, {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2], "dilations": [1, 1]}, {"order": ["x", "w"]}),
        ("conv-weight-1d", "Conv", {"w": r(4, 3, 3)}, {"x": r(2, 3, 9)}, {}, {"order": ["x", "w"], "opset": 11}),
        ("conv-transpose-groups", "ConvTranspose", {"w": turned}, {"x": upright}, {"strides": [2, 2], "group": 2, "dilations": [1, 2], "kernel_shape": [3, 3], "output_shape": [9, 10]}, {"order": ["x", "w"], "reference": lambda w: transposed(w)(upright.astype(np.float64))}),
        ("conv-transpose-both", "ConvTranspose", {"x": r(2, 4, 4, 4), "w": r(4, 3, 3, 2), "b": r(3)}, {}, {"strides": [2, 1]}, {}),
        ("max-roi-pool", "MaxRoiPool", {"x": r(2, 3, 6, 6)}, {"r": regions}, {"pooled_shape": [2, 2], "spatial_scale": 1.0}, {"expect": "next", "reference": lambda x: region_maxima(x, regions)}),
        ("max-roi-pool-regions", "MaxRoiPool", {"r": np.array([[0, 0.2, 0.1, 3.2, 3.1], [1, 1.1, 1.2, 5.1, 4.2]], np.float32)}, {"x": r(2, 3, 6, 6)}, {"pooled_shape": [2, 2], "spatial_scale": 1.0}, {"expect": "zero", "order": ["x", "r"], "reference": lambda regions: np.zeros((2, 3, 2, 2))}),
        ("conv-transpose-same", "ConvTranspose", {"x": r(2, 3, 4, 4)}, {"w": r(3, 2, 3, 3)}, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, {}),
        ("conv-transpose-shape", "ConvTranspose", {"x": r(2, 4, 4, 4)}, {"w": turned}, {"strides": [2, 2], "group": 2, "dilations": [1, 2], "kernel_shape": [3, 3], "output_shape": [9, 10]}, {"reference": transposed(turned)}),
        ("conv-transpose-weight", "ConvTranspose", {"w": r(3, 2, 3, 3)}, {"x": r(2, 3, 4, 4)}, {}, {"order": ["x", "w"]}),
        ("conv-transpose-bias", "ConvTranspose", {"b": r(2)}, {"x": r(2, 3, 4, 4), "w": r(3, 2, 3, 3)}, {}, {"order": ["x", "w", "b"]}),
        ("average-pool-same", "AveragePool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, {}),
        ("average-pool-ceil", "AveragePool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {}),
        ("average-pool-dilated", "AveragePool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [2, 2], "dilations": [2, 2]}, {"opset": 19}),
        ("max-pool-dilated", "MaxPool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [2, 2], "dilations": [2, 2]}, {}),
        ("max-pool-same", "MaxPool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, {"reference": largest}),
        ("max-pool-indices", "MaxPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "storage_order": 0}, {"outputs": 2}),
        ("lp-pool-1", "LpPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "p": 1}, {"reference": lp(1)}),
        ("lp-pool-empty", "LpPool", {"x": np.maximum(r(2, 3, 6, 6), 0) + p(2, 1, 6, 6) * (np.arange(6) > 2)}, {}, {"kernel_shape": [2, 2]}, {"reference": lp(2)}),
        ("lp-pool-padded", "LpPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {"reference": lp(2, 3, 1)}),
        ("lp-pool-dilated", "LpPool", {"x": r(2, 3, 7, 7)}, {}, {"kernel_shape": [2, 2], "dilations": [2, 2]}, {"opset": 18, "expect": "next"}),
        ("lp-pool-ceil", "LpPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {"opset": 18, "expect": "next", "reference": unfinished}),
        ("global-lp", "GlobalLpPool", {"x": r(2, 3, 5, 4)}, {}, {"p": 3}, {"reference": global_lp(3)}),
        ("global-lp-default", "GlobalLpPool", {"x": r(2, 3, 5, 4)}, {}, {}, {"reference": global_lp(2)}),
        ("depth-to-space-dcr", "DepthToSpace", {"x": r(2, 8, 3, 3)}, {}, {"blocksize": 2}, {}),
        ("col2im", "Col2Im", {"x": r(2, 12, 9)}, {"s": i(4, 4), "b": i(2, 2)}, {}, {"opset": 18}),
        ("col2im-strided", "Col2Im", {"x": r(2, 12, 4)}, {"s": i(5, 5), "b": i(2, 2)}, {"strides": [2, 2], "dilations": [2, 2], "pads": [0, 0, 0, 0]}, {"opset": 18}),
        ("pad-value", "Pad", {"x": r(2, 3, 4), "v": r()}, {"p": i(0, 1, 2, 0, 0, 1)}, {}, {"order": ["x", "p", "v"]}),
        ("pad-value-alone", "Pad", {"v": r()}, {"x": r(2, 3, 4), "p": i(0, 1, 2, 0, 0, 1)}, {}, {"order": ["x", "p", "v"]}),
        ("pad-wrap", "Pad", {"x": r(2, 3, 4)}, {"p": i(0, 0, 2, 0, 0, 1)}, {"mode": "wrap"}, {"opset": 19}),
        ("pad-negative", "Pad", {"x": r(2, 3, 4)}, {"p": i(0, 0, 1, 0, 0, -1)}, {}, {"reference": lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0)))[..., :-1]}),
        ("resize-first-axis", "Resize", {"x": r(3, 4)}, {"k": np.array([2, 2], np.float32)}, {"mode": "linear"}, {"order": ["x", "", "k"], "expect": "next"}),
        ("resize-nearest", "Resize", {"x": r(2, 3, 4, 5)}, {"k": np.array([1, 1, 2, 1.6], np.float32)}, {"mode": "nearest", "nearest_mode": "floor"}, {"order": ["x", "", "k"]}),
        ("resize-antialias", "Resize", {"x": r(2, 3, 8, 8)}, {"k": i(2, 3, 5, 5)}, {"mode": "linear", "antialias": 1}, {"order": ["x", "", "", "k"], "opset": 18}),
        ("resize-axes", "Resize", {"x": r(2, 3, 8, 8)}, {"k": i(5, 7)}, {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "stretch"}, {"order": ["x", "", "", "k"], "opset": 18}),
        ("resize-cubic-outside", "Resize", {"x": r(2, 3, 6, 5)}, {"k": np.array([1, 1, 0.8, 0.8], np.float32)}, {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, {"order": ["x", "", "k"]}),
        ("resize-crop", "Resize", {"x": r(2, 3, 6, 6)}, {"roi": np.array([0, 0, 0.2, 0.2, 1, 1, 1.3, 0.8], np.float32), "k": i(2, 3, 4, 4)}, {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}, {"order": ["x", "roi", "", "k"]}),
        ("resize-crop-moves", "Resize", {"roi": np.array([0.21, 0.22, 0.73, 0.84])}, {"x": smooth, "k": i(4, 4)}, {"mode": "linear", "axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize"}, {"order": ["x", "roi", "", "k"], "opset": 18, "expect": "next"}),
        ("resize-scales-nearest", "Resize", {"k": np.array([1.63, 1.37])}, {"x": smooth}, {"axes": [2, 3]}, {"order": ["x", "", "k"], "opset": 18, "expect": "zero"}),
        ("resize-crop-nearest", "Resize", {"roi": np.array([0.21, 0.22, 0.73, 0.84])}, {"x": smooth, "k": i(4, 4)}, {"mode": "nearest", "axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize"}, {"order": ["x", "roi", "", "k"], "opset": 18, "expect": "zero"}),
        ("resize-scales-move", "Resize", {"k": np.array([1.63, 1.37])}, {"x": smooth}, {"mode": "linear", "axes": [2, 3]}, {"order": ["x", "", "k"], "opset": 18, "expect": "refused"}),
        ("upsample-scales-move", "Upsample", {"k": np.array([1.63, 1.37])}, {"x": smooth[0, 0]}, {"mode": "linear"}, {"order": ["x", "k"], "opset": 9, "expect": "refused", "reference": stretched(smooth[0, 0])}),
        ("upsample", "Upsample", {"x": r(2, 3, 4, 5)}, {"k": np.array([1, 1, 2, 3], np.float32)}, {"mode": "nearest"}, {"opset": 9, "reference": lambda x: x.repeat(2, 2).repeat(3, 3)}),
        ("grid-sample-grid", "GridSample", {"x": r(2, 3, 5, 5), "g": np.tanh(r(2, 4, 4, 2)) / 2}, {}, {"align_corners": 1, "padding_mode": "border", "mode": "linear"}, {"opset": 20, "reference": sampled}),
        ("lp-pool-same", "LpPool", {"x": r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, {"reference": lp(2, 3, 1)}),
        *deformed,

        ("upsample-7", "Upsample", {"x": r(2, 3, 4, 5)}, {}, {"scales": [1.0, 1.0, 2.0, 3.0]}, {"opset": 7, "reference": lambda x: x.repeat(2, 2).repeat(3, 3)}),
    ]  # fmt: skip
