"""Which splits a protocol trains on and selects on."""

from __future__ import annotations

from collections.abc import Mapping

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking.metrics import METRICS
from hakg_dgl.settings.training import SelectionSettings

PUBLISHED_NOTE = "selected on the test split, as the published experiments did: compare with their tables only"
OVERLAP_NOTE = "test pairs that are also in train count as relevant, though no list can hold them"
REFIT_SPLITS = ("train", "valid")
CUT = 20
"""k of the metrics that every run reports, beside that of ``select_by``."""


def require_pairs(dataset: Dataset, training: SelectionSettings) -> None:
    """Raise ConfigError if the data set lacks a split that the protocol trains or selects on, or pairs to keep."""
    counts = {split: len(dataset.pairs(split)) for split in ("train", "valid", "test")}
    require_pairs_of(dataset.name, counts, len(dataset.test_overlap), training)


def require_pairs_of(name: str, counts: Mapping[str, int], n_overlap: int, training: SelectionSettings) -> None:
    """The same for a data set by its name, its interactions by split, and its test pairs that are also in train."""
    for splits in (training.training_splits, (training.selected_on,)):
        if not sum(counts[split] for split in splits):
            raise ConfigError(
                f"data set {name!r} has no {' or '.join(splits)} interactions, which protocol "
                f"{training.protocol!r} needs; preprocess again with a larger --{splits[-1]}"
            )
    if training.keep_overlap and training.protocol != "published":
        raise ConfigError(
            f"keep_overlap = true is not allowed with protocol = {training.protocol!r}: it counts test pairs that no "
            "list can hold, for comparison with published tables alone; add protocol = 'published', or leave it out"
        )
    if training.keep_overlap and not n_overlap:
        raise ConfigError(
            f"data set {name!r} has no test pairs that are also in train, which keep_overlap would count\n"
            "Leave it out. Only a source in the KGAT layout, with its own split, has such pairs; if yours has, "
            "preprocess it again. Parts (--parts) do not hold such pairs."
        )


def cuts(training: SelectionSettings) -> tuple[int, ...]:
    """k of the metrics that a run reports, ascending."""
    return tuple(sorted({CUT, training.selecting_cut}))


def further_metrics(training: SelectionSettings) -> tuple[str, ...]:
    """Metrics that a run reports beside those of every evaluation: that of ``select_by``, if it is none of them."""
    name = training.select_by.partition("@")[0]
    return () if name in METRICS else (name,)


def protocol_note(training: SelectionSettings) -> str | None:
    """What every report of such a run has to say; None for the validation protocol."""
    if training.protocol != "published":
        return None
    return f"{PUBLISHED_NOTE}; {OVERLAP_NOTE}" if training.keep_overlap else PUBLISHED_NOTE
