"""Write the numbers that ``dvc metrics show`` and ``dvc metrics diff`` compare: a ``--hook`` of `lieaudit gate`.

The decision arrives on standard input; the arguments are the report that the gate wrote and the file to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    decision = json.load(sys.stdin)
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found: dict[str, Any] = {"verdict": decision["verdict"]}
    for name in ("lee", "lee_per_px2", "relative"):
        found[name] = {g: result[name] for g, result in sorted(report["results"].items()) if name in result}
    if "top1" in report["data"]:
        found["top1"] = report["data"]["top1"]
    Path(sys.argv[2]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
