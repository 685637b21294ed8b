"""Makes jax_*.onnx: small networks with drawn weights, as jax2onnx exports them from Flax and from plain JAX.

Used: Python 3.11, jax 0.10.2, flax 0.12.8, jax2onnx 0.17.1, onnx 1.23.2, numpy 2.4.6.
``pip install`` these in an environment of their own, then ``python make_jax.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx

HERE = Path(__file__).parent


class Convolutional(nnx.Module):
    """Convolutions, batch normalisation, depthwise convolution, GELU, pooling."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.norm.mean[...] = 0.2 * jax.random.normal(rngs(), (8,))
        self.norm.var[...] = jax.random.uniform(rngs(), (8,), minval=0.5, maxval=1.5)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.pointwise = nnx.Conv(8, 12, (1, 1), rngs=rngs)
        self.head = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.gelu(self.pointwise(nnx.silu(self.depthwise(x))))
        x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2)) + nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.head(jnp.mean(x, axis=(1, 2)))


class Transformer(nnx.Module):
    """Patches, layer normalisation, multi-head attention, GELU."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, 16, (4, 4), strides=4, rngs=rngs)
        self.positions = nnx.Param(0.3 * jax.random.normal(rngs(), (1, 16, 16)))
        self.first, self.second = nnx.LayerNorm(16, rngs=rngs), nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.patches(x).reshape(-1, 16, 16) + self.positions[...]
        x = x + self.attention(self.first(x))
        x = x + self.down(nnx.gelu(self.up(self.second(x)), approximate=False))
        return self.head(jnp.mean(x, axis=1))


def plain(x: Any) -> Any:
    """No module: products, einsum, norms and logarithms of plain JAX."""
    w = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32) / 3
    rows = jnp.einsum("nchw,hk->nckw", x, w)
    spread = jnp.sqrt(jnp.sum(rows**2, axis=-1) + 0.1)
    soft = jax.nn.softmax(rows.mean(axis=1), axis=-1)
    return jnp.concatenate([jnp.log1p(spread[:, 0]), jnp.tanh(soft[..., 0] * spread[:, 1])], axis=-1)


def main() -> None:
    image = ("B", 16, 16, 3)
    models = {
        "convolutional": to_onnx(Convolutional(nnx.Rngs(0)), [image]),
        "transformer": to_onnx(Transformer(nnx.Rngs(0)), [image]),
        "plain": to_onnx(plain, [("B", 2, 8, 8)], opset=21),
    }
    for name, proto in models.items():
        onnx.save(proto, HERE / f"jax_{name}.onnx")


if __name__ == "__main__":
    main()
