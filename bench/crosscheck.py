"""The rates of the cross-check: false alarms among correct audits, and what becomes of rules that are 10 % off.

Usage: ``python bench/crosscheck.py [--correct 3000] [--planted 200]``. Networks and images are drawn
(bench/_planted.py); every audit has three generators, and every verdict is counted.
"""

from __future__ import annotations

import argparse
from collections import Counter

from _planted import checked  # type: ignore[import-not-found,unused-ignore]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--correct", type=int, default=3000)
    parser.add_argument("--planted", type=int, default=200)
    arguments = parser.parse_args()
    for planted, count in ((False, arguments.correct), (True, arguments.planted)):
        verdicts: Counter[str] = Counter()
        images = 0
        for seed in range(count):
            for agreement in checked(seed, planted=planted).values():
                verdicts[agreement.verdict] += 1
                images += agreement.images
        said = "one rule 10 % off" if planted else "all rules right"
        print(f"{count} audits, {said}: {dict(verdicts)}; {images / verdicts.total():.1f} images a check")


if __name__ == "__main__":
    main()
