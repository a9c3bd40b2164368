"""What an audit says in words: whether the facts help, only as strongly as the tests allow."""

from __future__ import annotations

from hakg_dgl.ranking.comparison import Comparison, Difference, Group
from hakg_dgl.studies.audited_facts import LABELS, NONE, SHUFFLED, TRUE

LEVEL = 0.05
"""A difference counts if the corrected p value of its paired test is below this, and all seeds agree on its sign."""
METRIC = "recall@20"
_CHANCE = "No difference beyond chance was found"


def verdict(table: Comparison, metric: str = METRIC) -> str:
    """One sentence on a segment: what the metric does without facts, and with shuffled ones.

    Parameters
    ----------
    table
        The model on other facts beside the model on the true ones.
    metric
        Which metric the sentence is about.

    Returns
    -------
    str
        The sentence. Of facts that were not trained on it says nothing.
    """
    sentence = _sentence(table, metric)
    if len(_group(table, LABELS[TRUE]).runs) > 1:
        return sentence
    return f"With the one seed that was trained: {sentence[0].lower()}{sentence[1:]}"


def _sentence(table: Comparison, metric: str) -> str:
    none, shuffled = _found(table, NONE, metric), _found(table, SHUFFLED, metric)
    if none is None and shuffled is None:
        return "Nothing is known yet: no run without facts or with shuffled ones is beside one with the true facts."
    if none is None:
        assert shuffled is not None
        return f"{_only_shuffled(table, shuffled)}."
    claim = _claim(table, none)
    if shuffled is None:
        return f"{claim}."
    return f"{claim}{_beside(table, none, shuffled)}."


def direction(table: Comparison, found: Difference) -> int:
    """-1 if facts other than the true ones are worse, 1 if they are better, 0 if that may be chance."""
    if found.p_test_holm >= LEVEL or not found.mean or not _seeds_agree(table, found):
        return 0
    return 1 if found.mean > 0 else -1


def _claim(table: Comparison, none: Difference) -> str:
    """What the model does without facts."""
    return {
        -1: f"The facts help: without them {_moves(table, none)}",
        0: f"{_CHANCE}: without facts {_may_be_chance(table, none)}",
        1: f"The facts harm: without them {_moves(table, none)}",
    }[direction(table, none)]


def _beside(table: Comparison, none: Difference, shuffled: Difference) -> str:
    """The rest of the sentence, on shuffled facts."""
    way, other = direction(table, none), direction(table, shuffled)
    if other == 0:
        joint = ", and" if way == 0 else ", but"
        return f"{joint} with shuffled facts {'it' if way == 0 else 'no difference beyond chance was found: it'} " + (
            _changes(table, shuffled)
        )
    joint = ", and" if way == other else ", but"
    return f"{joint} with shuffled facts it {_verb(table, shuffled)}"


def _only_shuffled(table: Comparison, shuffled: Difference) -> str:
    return {
        -1: f"True facts do better than shuffled ones, with which {_moves(table, shuffled)}",
        0: f"{_CHANCE}: with shuffled facts {_may_be_chance(table, shuffled)}",
        1: f"Shuffled facts do better than true ones: with them {_moves(table, shuffled)}",
    }[direction(table, shuffled)]


def _moves(table: Comparison, found: Difference) -> str:
    return f"{shown_metric(found.metric)} {_verb(table, found)}"


def _verb(table: Comparison, found: Difference) -> str:
    """``falls by 5.1% (p = 0.001)``."""
    mean = _mean(table, found.metric)
    by = f"{abs(found.mean) / mean:.1%}" if mean else f"{abs(found.mean):.4f}"
    return f"{'rises' if found.mean > 0 else 'falls'} by {by} ({p_text(found.p_test_holm)})"


def _may_be_chance(table: Comparison, found: Difference) -> str:
    return f"{shown_metric(found.metric)} {_changes(table, found)}"


def _changes(table: Comparison, found: Difference) -> str:
    """``changes by -0.3% (p = 0.61)``, and whether it is the seeds that disagree."""
    mean = _mean(table, found.metric)
    by = f"{found.mean / mean:+.1%}" if mean else f"{found.mean:+.4f}"
    agree = "" if found.p_test_holm >= LEVEL or _seeds_agree(table, found) else ", but the seeds disagree on its sign"
    return f"changes by {by.replace('-', '−')} ({p_text(found.p_test_holm)}{agree})"


def p_text(p: float) -> str:
    """A p value as it is written: ``p = 0.012``, ``p < 0.001``."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def shown_metric(metric: str) -> str:
    """``Recall@20``, ``NDCG@20``."""
    name, _, cut = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{cut}"


def _found(table: Comparison, name: str, metric: str) -> Difference | None:
    wanted = (LABELS[name], metric)
    return next((found for found in table.differences if (found.group, found.metric) == wanted), None)


def _group(table: Comparison, label: str) -> Group:
    return next(group for group in table.groups if group.label == label)


def _mean(table: Comparison, metric: str) -> float:
    """With the true facts."""
    return _group(table, LABELS[TRUE]).metrics[metric].mean


def _seeds_agree(table: Comparison, found: Difference) -> bool:
    """Whether the difference has the same sign with every seed."""
    true = _group(table, LABELS[TRUE]).runs
    each = [run[found.metric] - true[name][found.metric] for name, run in _group(table, found.group).runs.items()]
    return all(value > 0 for value in each) or all(value < 0 for value in each)
