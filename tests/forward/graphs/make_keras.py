"""Makes keras_*.onnx and tf2onnx_*.onnx: small networks with drawn weights, as Keras and tf2onnx export them.

Used: Python 3.11, tensorflow-cpu 2.21.0, keras 3.15.1, tf2onnx 1.17.0, onnx 1.18.0, numpy 2.4.6.
``pip install`` these in an environment of their own, then ``python make_keras.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

HERE = Path(__file__).parent
OPSETS = {"mobile": 11, "transformer": 18, "recurrent": 13}
L = keras.layers


def gelu(x: Any) -> Any:
    """Written out: tf2onnx knows no Erfc, which TensorFlow's own takes."""
    return 0.5 * x * (1 + keras.ops.erf(x / 2**0.5))


def approximate_gelu(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=True)


class Positions(L.Layer):
    """Adds a learned embedding."""

    def build(self, shape: Any) -> None:
        self.embedding = self.add_weight(shape=(1, *shape[1:]), initializer="random_normal", name="positions")

    def call(self, x: Any) -> Any:
        return x + self.embedding


def mobile() -> Any:
    """Convolutions, batch normalisation, depthwise and separable convolutions, squeeze and excitation."""
    x = image = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = L.ReLU(6.0)(L.BatchNormalization()(x))
    y = L.DepthwiseConv2D(3, padding="same")(x)
    y = keras.activations.silu(L.BatchNormalization()(y))
    gate = L.Dense(8, activation="sigmoid")(L.Dense(4, activation=gelu)(L.GlobalAveragePooling2D()(y)))
    x = x + y * L.Reshape((1, 1, 8))(gate)
    x = L.SeparableConv2D(12, 3, padding="same", activation="elu")(x)
    x = L.MaxPooling2D()(L.ZeroPadding2D(1)(x))
    x = L.UpSampling2D(interpolation="bilinear")(x)
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="leaky_relu")(x)
    return keras.Model(image, L.Dense(10)(L.GlobalMaxPooling2D()(x)))


def transformer() -> Any:
    """Patches, layer normalisation, multi-head attention, GELU."""
    image = keras.Input((16, 16, 3))
    x = L.Reshape((16, 16))(L.Conv2D(16, 4, strides=4)(image))
    x = Positions()(x)
    y = L.LayerNormalization()(x)
    x = x + L.MultiHeadAttention(2, 8)(y, y)
    y = L.Dense(32, activation=approximate_gelu)(L.LayerNormalization()(x))
    x = x + L.Dense(16)(y)
    return keras.Model(image, L.Dense(10)(L.GlobalAveragePooling1D()(L.LayerNormalization()(x))))


def recurrent() -> Any:
    """Rows as time: an LSTM, then a GRU in both directions."""
    image = keras.Input((12, 12, 1))
    x = L.Reshape((12, 12))(image)
    x = L.LSTM(8, return_sequences=True)(x)
    x = L.Bidirectional(L.GRU(6))(x)
    return keras.Model(image, L.Dense(10)(x))


def drawn(model: Any) -> Any:
    """Draw biases and statistics too, so that none is the identity."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.3
            weight.assign(random.uniform(low, low + 0.8, weight.shape))
    return model


def main() -> None:
    built: dict[str, Callable[[], Any]] = {"mobile": mobile, "transformer": transformer, "recurrent": recurrent}
    for name, build in built.items():
        keras.utils.set_random_seed(0)
        model = drawn(build())
        model(np.zeros((1, *model.input_shape[1:]), np.float32))
        model.export(HERE / f"keras_{name}.onnx", format="onnx", verbose=False)
        signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
        function = tf.function(lambda image, model=model: tf.nn.softmax(model(image)), input_signature=signature)
        path = str(HERE / f"tf2onnx_{name}.onnx")
        tf2onnx.convert.from_function(function, signature, opset=OPSETS[name], output_path=path)


if __name__ == "__main__":
    main()
