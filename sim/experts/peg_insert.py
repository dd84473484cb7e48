"""A scripted expert for peg_insert."""

from __future__ import annotations

from sim.experts.fit_part import FitPartExpert
from sim.fixtures.pegs import SIZE


class PegInsertExpert(FitPartExpert):
    """See FitPartExpert; both kinds of pegs are of one size."""

    def __init__(self) -> None:
        super().__init__(SIZE)
