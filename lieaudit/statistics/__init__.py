"""Statistics over images: bootstrap intervals, quantiles and paired comparisons (docs/numerics.md, sections 4, 9)."""

from lieaudit.statistics.bootstrap import STATISTICS, bootstrap_interval, confidence_draws, point_estimate
from lieaudit.statistics.comparison import Comparison, compare, holm, p_at_least, p_at_most
from lieaudit.statistics.quantiles import quantiles, top_share
from lieaudit.statistics.ratios import ratio_of_sums

__all__ = [
    "STATISTICS",
    "Comparison",
    "bootstrap_interval",
    "compare",
    "confidence_draws",
    "holm",
    "p_at_least",
    "p_at_most",
    "point_estimate",
    "quantiles",
    "ratio_of_sums",
    "top_share",
]
