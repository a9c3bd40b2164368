"""An explanation as a picture; this needs Matplotlib, an optional dependency (extra ``plot``)."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import pandas as pd

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.data.shared_items import short_relation
from hakg_dgl.figures.fonts import use_fonts
from hakg_dgl.figures.style import figure_class
from hakg_dgl.insight.explanation import Explanation, introduced

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
_NEGATIVE, _GREY = "#d55e00", "#8a8a8a"
_OWN, _FACTS = "own parameters", "facts and links"


def draw(explanation: Explanation, *, items: int = 8, paths: int = 8) -> Any:
    """The picture: the strongest past items, below them the parts of the whole score, and paths on the right.

    Paths lead over shared entities or, if there are none, over shared users. Edges between the same two nodes are drawn
    as one, with their sum. Every bar is split by what carries the past items' evidence: ``knowledge``,
    ``collaborative``, ``linear`` and whatever else components have. The bars of the lower panel are the past items
    shown, the others, the user's own parameters, and the sum of these, which is the score.

    Parameters
    ----------
    explanation
        The explanation to draw.
    items, paths
        The largest numbers of bars and paths.

    Returns
    -------
    matplotlib.figure.Figure
        A figure that pyplot does not know, so that nothing stays open. Its axes are past items, whole score and paths.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    shown = figure_class()
    n_bars = min(items, len(explanation.past_items))
    over = "entity" if (explanation.paths["via"] == "entity").any() else "user"
    strongest = _paths(explanation, over, paths)
    height = max(0.34 * (n_bars + 4) + 1.9, 0.5 * max(strongest[c].nunique() for c in ("past_item", "node")) + 1.2)
    figure = shown(figsize=(11.5, max(height, 3.6)), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(4, 5))
    left, right = parts
    bars, whole = left.subplots(2, 1, height_ratios=(max(n_bars, 1) + 1, 5.5))
    about = explanation.to_dict(0)
    user, item = introduced("User", _short(about["user"])), introduced("item", _short(about["item"], 50))
    rank = f"rank {explanation.rank:,} of {explanation.n_ranked:,}"
    figure.suptitle(f"{user}, {item}: score {explanation.score:.3f}, {rank}", fontsize=11)
    _bars(bars, whole, explanation, n_bars)
    _network(right.subplots(), explanation, over, strongest)
    return figure


def save_picture(explanation: Explanation, path: str | Path, *, items: int = 8, paths: int = 8) -> None:
    """Write the picture of :func:`draw` to a file, whole or not at all; the ending tells the format (svg, png, pdf).

    The same explanation gives the same file.
    """
    figure = draw(explanation, items=items, paths=paths)
    from matplotlib import rc_context

    path = Path(path)
    kind = path.suffix.removeprefix(".").lower() or "svg"
    use_fonts(figure, warn=kind != "svg")
    undated = {} if kind == "png" else {"metadata": {"CreationDate" if kind == "pdf" else "Date": None}}

    def write(temporary: Path) -> None:
        # A fixed salt, since SVG ids are random otherwise.
        with rc_context({"svg.hashsalt": "hakg", "svg.fonttype": "none"}), catch_warnings():
            filterwarnings("ignore", "Glyph .* missing")  # use_fonts says it once, and what to install
            figure.savefig(temporary, format=kind, dpi=150, **undated)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        error.filename = str(path)  # not that of the temporary
        raise


def _bars(axes: Any, whole: Any, explanation: Explanation, count: int) -> None:
    """Draw past items on one panel, and on the other their sum, that of the others, the user's own and the score."""
    past = explanation.past_items
    ways = [name for name in past if name not in ("item", "gate", "contribution")]
    parts = past[[way for way in ways if past[way].any()] or ways[:1]]
    names = explanation.dataset.items["name"].iloc[past["item"].head(count)]
    axes.set_title(("No past items", "Past items")[min(count, 1)], fontsize=10)
    _stacked(axes, parts.head(count), [_short({"name": name}) for name in names])
    sums = {f"these {count:,}" if count > 1 else "this one": parts.head(count).sum()} if count else {}
    if len(past) > count:
        sums[f"{len(past) - count:,} others"] = parts.iloc[count:].sum()
    own, ways = pd.Series({_OWN: explanation.user_own}), [*parts, _OWN]
    whole_score = parts.sum().add(own, fill_value=0.0)
    if len(explanation.user_facts):
        facts = pd.Series({_FACTS: explanation.user_facts["contribution"].sum()})
        sums["the user's facts"], ways = facts, [*parts, _FACTS, _OWN]
        whole_score = whole_score.add(facts, fill_value=0.0)
    rows = pd.DataFrame({**sums, "the user's own": own, "whole score": whole_score}).T
    whole.set_title("The whole score", fontsize=10)
    _stacked(whole, rows.reindex(columns=ways).fillna(0.0), list(rows.index))
    whole.set_xlabel("contribution to the score", fontsize=8)
    whole.legend(fontsize=8, frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.3), columnspacing=1.0)


def _stacked(axes: Any, rows: pd.DataFrame, labels: list[str]) -> None:
    """Draw a bar for each row with its parts side by side, negative ones to the left; the sum stands beside it."""
    places = range(len(rows))
    for number, name in enumerate(rows):
        values = rows[name].to_numpy()
        before = rows.iloc[:, :number].to_numpy()
        same_side = (before >= 0) == (values >= 0)[:, None]
        colour = _GREY if name == _OWN else _COLOURS[number % len(_COLOURS)]
        axes.barh(places, values, left=(before * same_side).sum(axis=1), color=colour, label=name, height=0.7)
    ends, sums = rows.clip(lower=0.0).sum(axis=1), rows.sum(axis=1)
    for place, end, total in zip(places, ends, sums, strict=True):
        axes.annotate(f"{total:.3f}", (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.margins(x=0.13)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _paths(explanation: Explanation, over: str, count: int) -> pd.DataFrame:
    """The strongest paths over ``entity`` or ``user``; paths between the same two nodes are one."""
    found = explanation.paths[explanation.paths["via"] == over]
    ends = ["past_item", "node"]
    strongest = found.groupby(ends, sort=False)["contribution"].sum().sort_values(ascending=False, kind="stable")
    table = strongest.head(count).to_frame()
    for name in ("relation", "item_relation"):
        # A fact that the graph holds in both directions is named by the one that reads from the item.
        edges = found.assign(backwards=found[name] >= explanation.dataset.n_relations)
        table[name] = edges.sort_values("backwards", kind="stable").drop_duplicates(ends).set_index(ends)[name]
    return table.reset_index()


def _network(axes: Any, explanation: Explanation, over: str, paths: pd.DataFrame) -> None:
    """Draw past items, what they share with the item, and the item in three columns; strong paths are wide lines."""
    axes.axis("off")
    if paths.empty:
        nothing = "no shared user" if explanation.without_facts else "no shared entity or user"
        axes.text(0.5, 0.5, nothing, ha="center", color=_GREY, transform=axes.transAxes)
        return
    share = explanation.share(explanation.path_totals[over][1])
    share = None if share is None else round(share, 3) + 0.0  # never "-0.0%"
    every = "" if share is None else f" (all of them: {share:.1%} of the score)".replace("-", "−")
    axes.set_title(f"Strongest paths over shared {'entities' if over == 'entity' else 'users'}{every}", fontsize=10)
    left, middle = _places(paths)
    lines = paths.assign(y=paths["past_item"].map(left), to=paths["node"].map(middle))
    into = lines.groupby("node", sort=False).agg(
        y=("to", "first"), contribution=("contribution", "sum"), relation=("item_relation", "first")
    )
    _lines(axes, explanation, lines[["y", "to", "contribution", "relation"]], 0.0)
    _lines(axes, explanation, into.assign(to=0.5), 1.0)
    items, text = explanation.dataset.items["name"], {"ha": "center", "va": "center", "zorder": 3}
    box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": _GREY, "linewidth": 0.6}
    for item, y in [*left.items(), (explanation.item, None)]:
        x, y = (2.0, 0.5) if y is None else (0.0, y)
        axes.text(x, y, _wrapped(items.iloc[item]), fontsize=8, bbox=box, **text)
    for node, y in middle.items():
        name = _entity(explanation, node) if over == "entity" else _user(explanation, node)
        axes.text(1.0, y, name, fontsize=8, bbox=box, **text)
    if (paths["contribution"] < 0).any():
        axes.text(2.4, 0.99, "orange lines lower the score", fontsize=8, color=_NEGATIVE, ha="right")
    axes.set_xlim(-0.4, 2.4)
    axes.set_ylim(1.0, 0.0)


def _places(paths: pd.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    """Heights of past items and of entities; each is near what it is linked to, so that few lines cross."""

    def spread(order: list[int]) -> dict[int, float]:
        return {key: (place + 0.5) / len(order) for place, key in enumerate(order)}

    left = spread(list(dict.fromkeys(paths["past_item"])))
    for _ in range(3):
        middle = spread(list(paths["past_item"].map(left).groupby(paths["node"]).mean().sort_values().index))
        left = spread(list(paths["node"].map(middle).groupby(paths["past_item"]).mean().sort_values().index))
    return left, middle


def _lines(axes: Any, explanation: Explanation, lines: pd.DataFrame, start: float) -> None:
    """Draw lines to the next column on the right, each with its relation along it."""
    dataset, largest = explanation.dataset, lines["contribution"].abs().max() or 1.0
    columns = (lines[name].tolist() for name in ("y", "to", "contribution", "relation"))
    for y, to, contribution, relation in zip(*columns, strict=True):
        color = _COLOURS[0] if contribution >= 0 else _NEGATIVE
        width = 0.5 + 3.5 * abs(contribution) / largest
        axes.plot([start, start + 1.0], [y, to], color=color, linewidth=width, alpha=0.5, zorder=1)
        if relation < 0:  # between a user and an item
            continue
        name = short_relation(dataset.relations["name"].iloc[relation % dataset.n_relations])
        axes.text(
            start + 0.5, (y + to) / 2, _short({"name": name}, 18), fontsize=6.5, color="#404040",
            ha="center", va="center", rotation=math.degrees(math.atan2(to - y, 1.0)),
            rotation_mode="anchor", transform_rotates_text=True, zorder=2,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip


def _entity(explanation: Explanation, node: int) -> str:
    """The name of a shared entity; if it has only an id, how many items have it, and one of them."""
    dataset, shared = explanation.dataset, explanation.shared
    row = (dataset.items if node < dataset.n_items else dataset.entities).iloc[node]
    if row["name"] != row["original_id"] or node < dataset.n_items:
        return _wrapped(row["name"])
    also = shared.items(node, (explanation.item, *explanation.past_items["item"]))
    example = f", e.g.\n{_short({'name': dataset.items['name'].iloc[also[0]]}, 20)}" if len(also) else ""
    return f"{_short({'name': row['name']})}\nof {len(shared.items(node)):,} items{example}"


def _user(explanation: Explanation, number: int) -> str:
    return introduced("user", _wrapped(explanation.dataset.users["name"].iloc[number]))


def _wrapped(name: str) -> str:
    """A name on at most two lines."""
    text = _short({"name": name}, 60).replace(r"\$", "$")
    return "\n".join(textwrap.wrap(text, 22, max_lines=2, placeholder="…") or [text]).replace("$", r"\$")


def _short(label: dict[str, Any], length: int = 30) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in label["name"])  # others are not allowed in XML
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")  # a dollar starts a formula
