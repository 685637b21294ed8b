"""Matrix products. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table


def cases(r, p, i):
    return [
        ("matmul-weight", "MatMul", {"a": r(2, 5, 3)}, {"b": r(3, 4)}, {}, {}),
        ("matmul-both", "MatMul", {"a": r(2, 6, 5, 3), "b": r(2, 6, 3, 4)}, {}, {}, {}),
        ("matmul-ranks", "MatMul", {"a": r(5, 3), "b": r(2, 3, 4)}, {}, {}, {}),
        ("matmul-row", "MatMul", {"a": r(3), "b": r(2, 3, 4)}, {}, {}, {}),
        ("matmul-column", "MatMul", {"a": r(2, 5, 3), "b": r(3)}, {}, {}, {}),
        ("matmul-dot", "MatMul", {"a": r(3), "b": r(3)}, {}, {}, {}),
        ("matmul-left-weight", "MatMul", {"b": r(2, 3, 4)}, {"a": r(5, 3)}, {}, {"order": ["a", "b"]}),
        ("gemm", "Gemm", {"a": r(2, 3)}, {"b": r(4, 3), "c": r(4)}, {"alpha": 0.5, "beta": 2.0, "transB": 1}, {}),
        ("gemm-both", "Gemm", {"a": r(3, 2), "b": r(3, 4), "c": r(4)}, {}, {"alpha": 0.5, "beta": 2.0, "transA": 1}, {}),
        ("gemm-old", "Gemm", {"a": r(2, 3)}, {"b": r(3, 4), "c": r(4)}, {}, {"opset": 9}),
        ("gemm-b", "Gemm", {"b": r(4, 3)}, {"a": r(2, 3), "c": r(4)}, {"transB": 1}, {"order": ["a", "b", "c"]}),
        ("einsum", "Einsum", {"a": r(2, 5, 3), "b": r(2, 4, 3)}, {}, {"equation": "bik,bjk->bij"}, {}),
        ("einsum-implicit", "Einsum", {"a": r(5, 3)}, {"b": r(3, 4)}, {"equation": "ik,kj"}, {}),
        ("gemm-c", "Gemm", {"c": r(2, 1)}, {"a": r(2, 3), "b": r(3, 4)}, {"beta": 0.5}, {"order": ["a", "b", "c"]}),
        ("gemm-both-turned", "Gemm", {"a": r(3, 2), "b": r(4, 3)}, {}, {"transA": 1, "transB": 1}, {}),
        ("einsum-dots", "Einsum", {"a": r(2, 3, 4), "b": r(2, 4, 5)}, {}, {"equation": "...ij,...jk->...ik"}, {}),
        ("einsum-trace", "Einsum", {"a": r(2, 4, 4)}, {}, {"equation": "bii->b"}, {}),
        ("einsum-three", "Einsum", {"a": r(2, 3), "b": r(3, 4), "c": r(4)}, {}, {"equation": "ij,jk,k->i"}, {}),
    ]  # fmt: skip
