"""What happened, as numbers: the part of the report that the scheduler knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SkillOutcome:
    """How one call of a skill ended; seconds are robot time."""

    success: bool
    code: str
    message: str = ""
    seconds: float = 0.0
    inference_ms: tuple[float, ...] = ()
    refinement_ms: tuple[float, ...] = ()


@dataclass
class SkillRecord:
    """All calls of one skill."""

    kind: str
    attempts: int = 0
    successes: int = 0
    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "kind": self.kind,
            "attempts": self.attempts,
            "successes": self.successes,
            "seconds": round(sum(self.seconds), 2),
            "seconds_each": [round(s, 2) for s in self.seconds],
            "error_codes": dict(self.codes),
        }


@dataclass
class ProductRecord:
    """One product."""

    index: int
    completed: bool = False
    seconds: float = 0.0
    attempts: Counter[str] = field(default_factory=Counter)
    refed: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "index": self.index,
            "completed": self.completed,
            "seconds": round(self.seconds, 2),
            "attempts": dict(self.attempts),
            "parts_refed": list(self.refed),
        }


class Journal:
    """Collects records while a task runs.

    Args:
        tell: gets one line of text per event, for the operator.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.skills: dict[str, SkillRecord] = {}
        self.products: list[ProductRecord] = []
        self.inference_ms: list[float] = []
        self.refinement_ms: list[float] = []

    @property
    def completed(self) -> int:
        """Products finished so far."""
        return sum(product.completed for product in self.products)

    def note(self, text: str) -> None:
        """Tells the operator."""
        self._tell(text)

    def skill(self, name: str, kind: str, what: str, outcome: SkillOutcome) -> None:
        """Notes one call of a skill; `what` names its arguments."""
        record = self.skills.setdefault(name, SkillRecord(kind))
        record.attempts += 1
        record.successes += outcome.success
        record.seconds.append(outcome.seconds)
        if not outcome.success:
            record.codes[outcome.code] += 1
        self.inference_ms.extend(outcome.inference_ms)
        self.refinement_ms.extend(outcome.refinement_ms)
        ended = "ok" if outcome.success else f"{outcome.code}: {outcome.message}"
        self.note(f"{name} {what}".rstrip() + f": {ended} ({outcome.seconds:.1f} s)")

    def to_dict(self) -> dict[str, Any]:
        """Skills, products and inference latency in JSON's types."""
        return {
            "skills": {name: record.to_dict() for name, record in self.skills.items()},
            "parts_refed": sum(len(product.refed) for product in self.products),
            "latency_ms": percentiles(self.inference_ms),
            "inferences": len(self.inference_ms),
            "residual_latency_ms": percentiles(self.refinement_ms),
        }


def percentiles(values_ms: list[float]) -> dict[str, float] | None:
    """p50 and p99, or None of nothing."""
    if not values_ms:
        return None
    p50, p99 = np.percentile(values_ms, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}
