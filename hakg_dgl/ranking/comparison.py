"""Comparing groups of evaluations: means over seeds, intervals over users, paired tests against a reference.

docs/comparing.md defines every number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking.beyond_hits import AUC, LIST_METRICS
from hakg_dgl.ranking.evaluation import Evaluation
from hakg_dgl.ranking.metrics import HIT_METRICS, METRICS
from hakg_dgl.ranking.run_groups import listed
from hakg_dgl.ranking.statistics import (
    FloatArray,
    PairedTest,
    bootstrap_means,
    bootstrap_p_values,
    holm,
    paired_p_values,
    percentile_intervals,
    wins_ties_losses,
)

LARGEST_CUT = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric of a group."""

    mean: float
    """Over users, then over runs."""
    sd: float | None
    """Standard deviation over runs, None for a single run."""
    low: float
    """Low end of the bootstrap interval over users."""
    high: float
    """Its high end."""


@dataclass(frozen=True)
class Group:
    """Runs that differ by chance alone, and what they reach."""

    label: str
    runs: dict[str, dict[str, float]]
    """Metrics of each run: means over users."""
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """A group beside the reference, in one metric, over the same users; positive where the group is better."""

    group: str
    metric: str
    mean: float
    low: float
    high: float
    p_bootstrap: float
    p_bootstrap_holm: float
    """Corrected for all differences of the comparison, as ``p_test_holm`` is."""
    p_test: float
    p_test_holm: float
    wins: int
    """Users for whom the group is better."""
    ties: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    split: str
    mask: tuple[str, ...]
    n_users: int
    """Users that every run was measured on."""
    metrics: tuple[str, ...]
    groups: tuple[Group, ...]
    reference: str
    """Label of the group that the others are compared with."""
    reference_is: str
    """``named`` by the caller, or ``best`` in the first metric."""
    differences: tuple[Difference, ...]
    """Of each group but the reference, in each metric."""
    test: PairedTest
    level: float
    resamples: int
    seed: int
    notes: tuple[str, ...] = field(default=())
    """What every report has to say."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, unrounded, ready for JSON."""
        return dataclasses.asdict(self)


def require_group(against: str | None, labels: Iterable[str]) -> None:
    """Raise ConfigError if the reference asked for is not one of the groups."""
    if against is not None and against not in labels:
        raise ConfigError(f"there is no group {against!r} to compare with; the groups are {_quoted(labels)}")


COMPARED = (*HIT_METRICS, *(name for name in LIST_METRICS if name != "coverage"))
"""Metrics of a list that each user has a value of."""


def metric_cut(metric: str) -> int | None:
    """The list length of a metric such as ``ndcg@20``; None for ``auc``, which is of the whole ranking.

    Raises
    ------
    ConfigError
        If there is no such metric, or it is not one of a user.
    """
    name, _, k = metric.partition("@")
    if metric == AUC:
        return None
    if name in COMPARED and k.isascii() and k.isdecimal() and len(k) <= 7 and 0 < int(k) <= LARGEST_CUT and k[0] != "0":
        return int(k)
    if name == "coverage":
        raise ConfigError(
            f"{metric!r} is one number of all lists, so runs cannot be compared by it user by user; "
            "hakg evaluate --also coverage shows it"
        )
    raise ConfigError(
        f"there is no metric {metric!r}; write {AUC}, or one of {', '.join(COMPARED)} and a cut of 1 to a million, "
        "such as ndcg@20"
    )


def needed_for(metrics: Iterable[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """``ks`` and ``also`` of the evaluations that a comparison by these metrics needs.

    Raises
    ------
    ConfigError
        As :func:`metric_cut`.
    """
    metrics = tuple(metrics)
    ks = {cut for metric in metrics if (cut := metric_cut(metric)) is not None}
    names = dict.fromkeys(metric.partition("@")[0] for metric in metrics)
    return tuple(sorted(ks)) or (20,), tuple(name for name in names if name not in METRICS)


def compare(
    groups: Mapping[str, Mapping[str, Evaluation]],
    metrics: Iterable[str] = ("recall@20", "ndcg@20"),
    *,
    against: str | None = None,
    test: PairedTest = "t",
    resamples: int = 10_000,
    seed: int = 2020,
    level: float = 0.95,
    notes: Sequence[str] = (),
) -> Comparison:
    """Mean, spread and interval of each group, and each one's difference from a reference, tested by user.

    Parameters
    ----------
    groups
        Label -> name of a run -> its evaluation with ``per_user=True``. The runs of a group differ by chance alone.
    metrics
        Such as ``recall@20``; the evaluations must have them.
    against
        Label of the reference. Default: the group with the best mean of the first metric.
    test
        The test beside the bootstrap: ``t`` or ``wilcoxon``.
    resamples
        Number of resamples in the bootstrap over users, at least 100.
    seed
        Seed of the bootstrap.
    level
        Share of the resampled means that an interval covers.
    notes
        Passed on to every report.

    Raises
    ------
    ConfigError
        If an option or metric is not one of those allowed, or evaluations are of different splits or masks.
    DataError
        If the evaluations have fewer than 2 users in common.

    Examples
    --------
    >>> compare({"HAKG": {"a": first, "b": second}, "EASE": {"c": third}}).differences  # doctest: +SKIP
    """
    metrics = tuple(dict.fromkeys(metrics))
    first = _checked(groups, metrics, against, resamples)
    users, left_out = _common_users(groups)
    by_run = {
        label: np.stack([_values(run, users, metrics) for run in runs.values()]) for label, runs in groups.items()
    }
    by_user = {label: values.mean(0) for label, values in by_run.items()}
    reference = against or max(by_user, key=lambda label: float(by_user[label][:, 0].mean()))
    others = [label for label in groups if label != reference]
    own = _Columns.of([by_user[label] for label in groups], len(users))
    apart = _Columns.of([by_user[label] - by_user[reference] for label in others], len(users))
    _resample((own, apart), resamples, seed, level)
    return Comparison(
        split=first.split,
        mask=first.mask,
        n_users=len(users),
        metrics=metrics,
        groups=_described(groups, metrics, by_run, own),
        reference=reference,
        reference_is="best" if against is None else "named",
        differences=_differences([(label, metric) for label in others for metric in metrics], apart, test),
        test=test,
        level=level,
        resamples=resamples,
        seed=seed,
        notes=(*notes, *left_out),
    )


@dataclass
class _Columns:
    """Values ``[n_users, n]``, their resampled means over users ``[resamples, n]``, and the interval of each mean."""

    by_user: FloatArray
    resampled: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, parts: Sequence[FloatArray], n_users: int) -> _Columns:
        """The parts beside each other, not yet resampled."""
        nothing = np.empty((0, 0))
        return cls(np.concatenate([np.empty((n_users, 0)), *parts], axis=1), nothing, nothing, nothing)


def _resample(tables: Sequence[_Columns], resamples: int, seed: int, level: float) -> None:
    """Fill in resampled means and intervals; all tables share the draws of users."""
    values = np.concatenate([table.by_user for table in tables], axis=1)
    means = bootstrap_means(values, resamples, numpy_generator(seed, "bootstrap"))
    low, high = percentile_intervals(means, level)
    start = 0
    for table in tables:
        part = slice(start, start + table.by_user.shape[1])
        table.resampled, table.low, table.high = means[:, part], low[part], high[part]
        start = part.stop


def _described(
    groups: Mapping[str, Mapping[str, Evaluation]], metrics: Sequence[str], by_run: Mapping[str, FloatArray],
    own: _Columns,
) -> tuple[Group, ...]:  # fmt: skip
    """Every group with its means and intervals; ``own`` has a column a group and metric."""
    width, described = len(metrics), []
    for number, (label, runs) in enumerate(groups.items()):
        part = slice(number * width, (number + 1) * width)
        described.append(_group(label, runs, metrics, by_run[label].mean(1), own.low[part], own.high[part]))
    return tuple(described)


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(map(repr, labels))


def _checked(
    groups: Mapping[str, Mapping[str, Evaluation]], metrics: Sequence[str], against: str | None, resamples: int
) -> Evaluation:
    """One of the evaluations, if all can be compared."""
    if not metrics or not groups:
        raise ConfigError("give at least one group and one metric")
    for label, runs in groups.items():
        if not runs:
            raise ConfigError(f"the group {label!r} has no run")
    require_group(against, groups)
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}; it must be at least 100")
    evaluations = [(name, run) for runs in groups.values() for name, run in runs.items()]
    first_name, first = evaluations[0]
    for name, run in evaluations:
        if run.per_user is None:
            raise ConfigError(f"{name}: has no table of users; evaluate with per_user=True")
        missing = [metric for metric in metrics if metric not in run.per_user]
        if missing:
            ks, also = needed_for(missing[:1])
            raise ConfigError(
                f"{name}: has no {missing[0]}; evaluate with ks={ks}" + (f", also={also}" if also else "")
            )
        if (run.split, run.mask) != (first.split, first.mask):
            raise ConfigError(
                f"{name} was measured on {run.split!r} with {run.mask} masked, {first_name} on {first.split!r} with "
                f"{first.mask} masked; compare like with like"
            )
    return first


def _common_users(groups: Mapping[str, Mapping[str, Evaluation]]) -> tuple[pd.Index, list[str]]:
    names = [name for runs in groups.values() for name in runs]
    measured = [pd.Index(_table(run)["user"]) for runs in groups.values() for run in runs.values()]
    users = reduce(pd.Index.intersection, measured)
    if len(users) < 2:
        found = "no user" if not len(users) else "a single user"
        raise DataError(
            f"the runs have {found} in common ({listed(names)}), and statistics need at least 2",
            remedy="Compare runs measured on the same users; a split needs more of them (--valid, --test).",
        )
    left_out = len(reduce(pd.Index.union, measured)) - len(users)
    return users, [f"{left_out:,} users were not measured in every run and are left out."] if left_out else []


def _values(run: Evaluation, users: pd.Index, metrics: Sequence[str]) -> FloatArray:
    return _table(run).set_index("user").loc[users, list(metrics)].to_numpy(np.float64)


def _table(run: Evaluation) -> pd.DataFrame:
    assert run.per_user is not None  # checked before
    return run.per_user


def _group(
    label: str, runs: Iterable[str], metrics: Sequence[str], by_run: FloatArray, low: FloatArray, high: FloatArray
) -> Group:
    """A group from its runs' metrics ``[n_runs, n_metrics]`` and the ends of its intervals ``[n_metrics]``."""
    spread = by_run.std(0, ddof=1) if len(by_run) > 1 else [None] * len(metrics)
    estimates = [
        Estimate(float(mean), None if sd is None else float(sd), float(lowest), float(highest))
        for mean, sd, lowest, highest in zip(by_run.mean(0), spread, low, high, strict=True)
    ]
    each = {
        name: dict(zip(metrics, map(float, values), strict=True)) for name, values in zip(runs, by_run, strict=True)
    }
    return Group(label, each, dict(zip(metrics, estimates, strict=True)))


def _differences(names: Sequence[tuple[str, str]], apart: _Columns, test: PairedTest) -> tuple[Difference, ...]:
    """What the columns of differences show; each of the names is a group and a metric."""
    mean = apart.by_user.mean(0)
    p_bootstrap, p_test = bootstrap_p_values(apart.resampled, mean), paired_p_values(apart.by_user, test)
    counts = wins_ties_losses(apart.by_user)
    columns = (mean, apart.low, apart.high, p_bootstrap, holm(p_bootstrap), p_test, holm(p_test), *counts)
    return tuple(Difference(*name, *(column[i].item() for column in columns)) for i, name in enumerate(names))
