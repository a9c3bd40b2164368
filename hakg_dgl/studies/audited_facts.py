"""Which facts an audit trains on: the true ones, none, shuffled ones, and shares of the true ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.fact_variants import share_of_true_facts, shuffled_facts, thinned_facts, without_facts
from hakg_dgl.errors import ConfigError
from hakg_dgl.randomness import numpy_generator

TRUE, NONE, SHUFFLED = "true", "none", "shuffled"
SHARES = {f"thinned-{percent}": percent / 100 for percent in (75, 50, 25)}
LABELS = {
    TRUE: "true facts",
    NONE: "no facts",
    SHUFFLED: "shuffled facts",
    **{name: f"{share:.0%} of the facts" for name, share in SHARES.items()},
}
"""Name, for commands and folders -> label, for people; in the order in which they are trained."""


def variant_of(dataset: Dataset, name: str, seed: int) -> Dataset:
    """The data set with the facts of a name; chance comes from the seed alone.

    Shares of one seed are nested: the facts of a smaller one are among those of a larger one.
    """
    if name == TRUE:
        return dataset
    if name == NONE:
        return without_facts(dataset)
    if name == SHUFFLED:
        return shuffled_facts(dataset, numpy_generator(seed, "shuffled facts"))
    return thinned_facts(dataset, SHARES[name], numpy_generator(seed, "thinned facts"))


def chosen_facts(only: Iterable[str] = ()) -> list[str]:
    """The names to train on, the true facts first and always.

    Raises
    ------
    ConfigError
        If there are no facts of a name.
    """
    wanted = list(only)
    for name in wanted:
        if name not in LABELS:
            raise ConfigError(f"there are no facts called {name!r}; choose from {', '.join(LABELS)}")
    return [name for name in LABELS if not wanted or name in (TRUE, *wanted)]


@dataclass(frozen=True)
class Sameness:
    """What an audit has to know of a variant before it is trained.

    Attributes
    ----------
    digest
        Of the data set with these facts.
    share
        The share of the true facts that it has.
    """

    digest: str
    share: float


class KnownVariants:
    """The variants of a data set, each made once for its digest and its share of true facts.

    Parameters
    ----------
    dataset
        The one with the true facts.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: dict[tuple[str, int | None], Sameness] = {}

    def __call__(self, name: str, seed: int) -> Sameness:
        """What is known of the facts of this name with this seed."""
        key = (name, None if name in (TRUE, NONE) else seed)
        if key not in self._known:
            variant = variant_of(self._dataset, name, seed)
            self._known[key] = Sameness(variant.digest, share_of_true_facts(self._dataset, variant))
        return self._known[key]

    def stands_for(self, name: str, seed: int) -> str:
        """The first name whose facts are the same with this seed; mostly the name itself."""
        digest = self(name, seed).digest
        return next(other for other in LABELS if self(other, seed).digest == digest)
