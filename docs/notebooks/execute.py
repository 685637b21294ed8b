"""Execute a notebook of this folder and write its outputs into it; needs no Jupyter.

::

    python docs/notebooks/execute.py docs/notebooks/*.ipynb

Cells run in order in one namespace, in the notebook's folder. What a cell prints is kept, and its last expression as a
notebook shows it: HTML where it has any, a picture where it is a figure, its repr in any case.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any


def execute(path: Path) -> list[list[dict[str, Any]]]:
    """Run the code cells of a notebook and return the outputs of each. An error of a cell is the caller's."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(path.parent):
        return [_run("".join(cell["source"]), space) for cell in cells if cell["cell_type"] == "code"]


def _run(source: str, space: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), space)  # noqa: S102 - the notebook is the project's own
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        outputs.append({"output_type": "display_data", "metadata": {}, "data": _shown(value)})
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"text/plain": _lines(repr(value))}
    if hasattr(value, "savefig"):
        buffer = io.BytesIO()
        value.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
        found["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    elif hasattr(value, "_repr_html_"):
        found["text/html"] = _lines(value._repr_html_())
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Execute the notebooks named on the command line, in place."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in sys.argv[1:]:
        path = Path(name)
        outputs = iter(execute(path))
        notebook = json.loads(path.read_text(encoding="utf-8"))
        codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for count, (cell, found) in enumerate(zip(codes, outputs, strict=True), 1):
            cell["execution_count"], cell["outputs"] = count, found
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
