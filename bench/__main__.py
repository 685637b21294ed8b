"""All timings, as ratios measured in one run: ``make bench``, or ``python -m bench NAME …`` for some of them.

Every module of this package without a leading underscore is a benchmark: its ``main`` prints one table.
Nothing here passes or fails; a ratio means what it says on an otherwise idle machine.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    known = [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_")]
    names = sys.argv[1:] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names:
        importlib.import_module(f"bench.{name}").main()


main()
