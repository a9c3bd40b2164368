"""How a run is trained and selected: what every model has, and what models trained by gradients have beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from hakg_dgl.errors import ConfigError
from hakg_dgl.settings.section import Range, Section, shown_value

Protocol: TypeAlias = Literal["validation", "published"]
SELECTING_METRICS = ("recall", "ndcg", "precision", "hit", "mrr", "map")
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class SelectionSettings(Section):
    """How the best model is selected; all that a model in closed form reads of the section ``training``.

    Attributes
    ----------
    select_by
        The metric that picks the best, for example ``ndcg@20`` or ``recall@20``.
    protocol
        ``validation`` selects on the validation split; ``published`` trains on train and validation together and
        selects on the test split, as the published experiments did.
    keep_overlap
        Under protocol ``published``: pairs of the source's test part that are also in its training part are relevant,
        as in the published evaluations, though no list can hold them.
    refit
        Under protocol ``validation``: train the best afresh on train and validation together, so that the model left
        behind has seen all that is known of its users.
    """

    select_by: str = "ndcg@20"
    protocol: Protocol = "validation"
    keep_overlap: bool = False
    refit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        metric, _, k = self.select_by.partition("@")
        if metric not in SELECTING_METRICS or not (k.isdecimal() and len(k) < 7 and int(k) > 0):
            raise ConfigError(
                f"select_by = {shown_value(self.select_by)} is not allowed: it must be a metric "
                f"({', '.join(SELECTING_METRICS)}) and a cut below a million, such as 'ndcg@20' or 'recall@10'"
            )

    @property
    def refits(self) -> bool:
        """Whether the best is trained afresh on train and validation."""
        return self.refit and self.protocol == "validation"

    @property
    def training_splits(self) -> tuple[str, ...]:
        """Splits that are trained on until the best is known."""
        return ("train",) if self.protocol == "validation" else ("train", "valid")

    @property
    def selected_on(self) -> str:
        """The split that selects."""
        return "valid" if self.protocol == "validation" else "test"

    @property
    def selecting_cut(self) -> int:
        """k of :attr:`select_by`."""
        return int(self.select_by.partition("@")[2])


@dataclass(frozen=True)
class TrainingSettings(SelectionSettings):
    """The optimisation of a model that is trained by gradients.

    Attributes
    ----------
    lr, lr_schedule
        Adam's learning rate, and how it changes: ``constant``, or ``cosine`` down to a hundredth over the epochs.
    batch_size
        Interactions a step.
    positives_per_user
        Interactions of a user that stand side by side in a batch, in random order; 1 mixes all interactions. A softmax
        computes the scores of a user once for all of them.
    epochs, eval_every, patience
        Most epochs; epochs between evaluations; evaluations without a better one before training stops.
    max_seconds
        No epoch of the search for the best one begins after this time, in seconds; 0 sets no limit. The refit, which
        makes no more epochs than that search, is not counted.
    """

    lr: Annotated[float, Range(1e-8, 100.0)] = 2e-3
    lr_schedule: Literal["constant", "cosine"] = "constant"
    batch_size: Annotated[int, _COUNT] = 2048
    positives_per_user: Annotated[int, _COUNT] = 1
    epochs: Annotated[int, _COUNT] = 200
    eval_every: Annotated[int, _COUNT] = 1
    patience: Annotated[int, _COUNT] = 10
    max_seconds: Annotated[float, Range(0.0, 1e9)] = 0.0
