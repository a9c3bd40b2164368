"""What a trainer reports while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """What the trainer reports after each step and each epoch.

    Attributes
    ----------
    epoch, epochs
        Epoch counted from 1, and the most there will be.
    step, steps
        Step within the epoch counted from 1; the report with ``step == steps`` comes once the epoch is over.
    loss
        Mean loss of the epoch so far; NaN for a model that has none.
    seconds
        Since the epoch began.
    metrics
        Of the evaluation after this epoch, if one was made.
    best
        Whether it is the best so far.
    stopped
        Why training ends here, None while it goes on.
    refit
        Whether this is the second training, on train and validation together; epochs are counted anew.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float
    metrics: dict[str, float] | None = None
    best: bool = False
    stopped: str | None = None
    refit: bool = False


OnProgress: TypeAlias = Callable[[Progress], None]
