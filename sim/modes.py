"""Which of several ways to begin were taken, and how evenly: measured in every task with goals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(counts: Sequence[int]) -> dict[str, float]:
    """How modes are covered.

    Args:
        counts: episodes of each mode, those that never occurred included.

    Returns:
        `modes_covered`: share of the modes that occurred; `modes_entropy`: entropy of their
        distribution, 1 where all are alike.
    """
    share = np.array(counts) / max(sum(counts), 1)
    present = share[share > 0]
    entropy = -(present * np.log(present)).sum() / np.log(len(counts))
    return {
        "modes_covered": round(float((share > 0).mean()), 4),
        "modes_entropy": round(float(entropy), 4),
    }
