"""What a study of runs needs of its data set and its settings, so that nothing is selected on the test split."""

from __future__ import annotations

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings


def require_splits(dataset: Dataset) -> None:
    """Raise ConfigError if the data set has no interactions to validate on, or none to test on."""
    for split in ("valid", "test"):
        if not len(dataset.pairs(split)):
            raise ConfigError(
                f"data set {dataset.name!r} has no {split} interactions, which the study needs; "
                f"preprocess again with a larger --{split}"
            )


def require_validation(settings: Settings) -> None:
    """Raise ConfigError if the settings select on another split than the validation split."""
    protocol = settings.training.protocol
    if protocol != "validation":
        raise ConfigError(f"protocol = {protocol!r}: the study must not select on the test split; use 'validation'")
