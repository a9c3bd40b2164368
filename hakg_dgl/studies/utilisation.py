"""KGER: how much of a metric is lost for each share of the facts that is taken away or made false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hakg_dgl.ranking.comparison import Comparison


@dataclass(frozen=True)
class Utilisation:
    """What is lost with other facts, relative to the true ones."""

    facts: str
    """Label of the facts."""
    metric: str
    distorted: float
    """The share of the true facts that are not among these."""
    change: float
    """Relative change of the metric, negative where it falls."""
    low: float
    """Low end of its interval."""
    high: float
    """Its high end."""
    kger: float
    """``-change / distorted``: positive where the facts are of use."""
    kger_low: float
    kger_high: float


def utilisation(table: Comparison, shares: Mapping[str, float]) -> list[Utilisation]:
    r"""KGER of each difference of a comparison with the true facts.

    .. math:: \mathrm{KGER} = \frac{(m - m') / m}{1 - |T \cap T'| / |T|}

    with a metric m on the true facts T, and m' on the facts T'. The interval is that of the difference over users,
    divided by the same numbers; that m itself is an estimate does not enter.

    Parameters
    ----------
    table
        The reference is the model on the true facts.
    shares
        Label of facts -> the share of the true facts that are among them.

    Returns
    -------
    list of Utilisation
        In the order of the differences; those are left out for which m is 0, or all facts are true.
    """
    means = {group.label: group.metrics for group in table.groups}[table.reference]
    found = []
    for difference in table.differences:
        mean, distorted = means[difference.metric].mean, 1.0 - shares[difference.group]
        if not mean or distorted <= 0:
            continue
        change, low, high = (value / mean for value in (difference.mean, difference.low, difference.high))
        kger = (-change / distorted, -high / distorted, -low / distorted)
        found.append(Utilisation(difference.group, difference.metric, distorted, change, low, high, *kger))
    return found
