"""Makes sklearn_*.onnx: pipelines on scikit-learn's 8 × 8 digits, as skl2onnx exports them.

Used: Python 3.11, scikit-learn 1.9.1, skl2onnx 1.20.0, onnx 1.23.2, numpy 2.4.6.
``pip install`` these in an environment of their own, then ``python make_sklearn.py``. skl2onnx knows tables of features
only: a Reshape from (N, 1, 8, 8) is put in front.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def with_image_input(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put a Reshape from images to features in front."""
    graph = proto.graph
    (features,) = graph.input
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 64]), "image_to_features"))
    reshape = helper.make_node("Reshape", ["image", "image_to_features"], [features.name], name="image_to_features")
    graph.node.insert(0, reshape)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8]))
    return proto


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    # little confident: the softmax stays in a float32 graph
    smooth: dict[str, Any] = {"max_iter": 60, "random_state": 0, "alpha": 10.0}
    models = {
        "mlp": make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(16,), **smooth)),
        "mlp_tanh": make_pipeline(PCA(16), MLPClassifier(hidden_layer_sizes=(16, 12), activation="tanh", **smooth)),
        "logistic": make_pipeline(StandardScaler(), PCA(20), LogisticRegression(C=1e-3, max_iter=200)),
        "regressor": MLPRegressor(hidden_layer_sizes=(12,), activation="logistic", max_iter=60, random_state=0),
    }
    for name, model in models.items():
        model.fit(x, y)
        last = model[-1] if hasattr(model, "steps") else model
        options = {id(last): {"zipmap": False}} if hasattr(last, "classes_") else None
        proto = with_image_input(to_onnx(model, x[:1], options=options, target_opset=18))
        onnx.save(proto, HERE / f"sklearn_{name}.onnx")


if __name__ == "__main__":
    main()
