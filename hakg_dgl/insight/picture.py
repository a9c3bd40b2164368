"""An explanation as a picture; needs Matplotlib, an optional dependency (extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import pandas as pd

from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.insight.explain import Explanation
from hakg_dgl.training.files import replace_file

_BLUE, _ORANGE, _GREY = "#4878a8", "#e08b3e", "#8c8c8c"


def require_matplotlib() -> None:
    """Raise MissingDependencyError unless Matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"pictures need Matplotlib, which cannot be imported ({error}): pip install matplotlib, "
            "or leave --picture out"
        ) from error


def draw(explanation: Explanation, *, items: int = 8, paths: int = 8) -> Any:
    """The picture: past items' contributions on the left, the strongest paths to the item on the right.

    Parameters
    ----------
    explanation
        What to draw.
    items, paths
        How many bars and paths at most.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot, so nothing is left open.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 0.8 + 0.42 * max(items, paths)), layout="constrained")
    bars, network = figure.subplots(1, 2, width_ratios=(2, 3))
    about = explanation.to_dict(max(items, paths))
    figure.suptitle(
        f"{_short(about['user'])} and {_short(about['item'])}: score {explanation.score:.3f}, "
        f"rank {explanation.rank} of {explanation.n_ranked}",
        fontsize=11,
    )
    _bars(bars, explanation, about, items)
    _network(network, explanation, about["paths"]["entity"]["rows"][:paths])
    return figure


def save_picture(explanation: Explanation, path: str | Path, *, items: int = 8, paths: int = 8) -> None:
    """Write the picture of :func:`draw` to a file whose ending tells the format (svg, png, pdf); whole or not at all.

    The same explanation gives the same file.
    """
    figure = draw(explanation, items=items, paths=paths)
    from matplotlib import rc_context

    path = Path(path)
    kind = path.suffix.removeprefix(".").lower() or "svg"
    undated = {} if kind == "png" else {"metadata": {"CreationDate" if kind == "pdf" else "Date": None}}

    def write(temporary: Path) -> None:
        # A fixed salt, since SVG ids are random otherwise.
        with rc_context({"svg.hashsalt": "hakg", "svg.fonttype": "none"}), catch_warnings():
            filterwarnings("ignore", "Glyph .* missing")  # of names in scripts that the font lacks: boxes are drawn
            figure.savefig(temporary, format=kind, dpi=150, **undated)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        error.filename = str(path)  # not that of the temporary
        raise


def _bars(axes: Any, explanation: Explanation, about: dict[str, Any], count: int) -> None:
    """Past items, knowledge and collaborative part one after the other, then the others and the own parameters."""
    past = explanation.past_items
    head, rest = past.head(count), past.iloc[count:]
    labels = [_short({"name": row["item_name"]}) for row in about["past_items"]["rows"][: len(head)]]
    parts = head[["knowledge", "collaborative"]]
    if len(rest):
        labels.append(f"{len(rest)} others")
        parts = pd.concat([parts, rest[["knowledge", "collaborative"]].sum().to_frame().T])
    places = range(len(parts))
    left = parts["knowledge"].to_numpy()
    same_side = (left >= 0) == (parts["collaborative"].to_numpy() >= 0)
    axes.barh(places, left, color=_BLUE, label="knowledge")
    axes.barh(places, parts["collaborative"], left=left * same_side, color=_ORANGE, label="collaborative")
    axes.barh(len(parts), explanation.user_own, color=_GREY, label="own parameters")
    axes.set_yticks(range(len(parts) + 1), [*labels, "the user"], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.set_title("Past items", fontsize=10)
    axes.set_xlabel("contribution to the score", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _network(axes: Any, explanation: Explanation, paths: list[dict[str, Any]]) -> None:
    """Past items, shared entities and the item in three columns; a line is as wide as its paths are strong."""
    axes.axis("off")
    axes.set_title("Strongest paths over shared entities", fontsize=10)
    if not paths:
        axes.text(0.5, 0.5, "no shared entity", ha="center", va="center", color=_GREY, transform=axes.transAxes)
        return
    pasts, entities = ({path[end]["id"]: _short(path[end]) for path in paths} for end in ("past_item", "entity"))
    left, right = ({key: (i + 0.5) / len(ends) for i, key in enumerate(ends)} for ends in (pasts, entities))
    largest = max(abs(path["contribution"]) for path in paths) or 1.0
    text = {"ha": "center", "va": "center"}
    for path in paths:
        start, middle = left[path["past_item"]["id"]], right[path["entity"]["id"]]
        width = 0.5 + 3.5 * abs(path["contribution"]) / largest
        color = _BLUE if path["contribution"] >= 0 else _ORANGE
        axes.plot([0.0, 1.0, 2.0], [start, middle, 0.5], color=color, linewidth=width, alpha=0.55, zorder=1)
        for x, y, fact in ((0.5, (start + middle) / 2, "past_fact"), (1.5, (middle + 0.5) / 2, "item_fact")):
            axes.text(x, y, _short({"name": path[fact]["relation"]}), fontsize=6, color="#404040", **text)
    box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": _GREY, "linewidth": 0.6}
    ends = [(0.0, left[key], name) for key, name in pasts.items()]
    ends += [(1.0, right[key], name) for key, name in entities.items()]
    ends.append((2.0, 0.5, _short({"name": explanation.dataset.items["name"].iloc[explanation.item]})))
    for x, y, name in ends:
        axes.text(x, y, name, fontsize=8, bbox=box, zorder=2, **text)
    axes.set_xlim(-0.5, 2.5)
    axes.set_ylim(1.0, 0.0)


def _short(label: dict[str, Any], length: int = 24) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in label["name"])  # others are no XML
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")  # no mathematics
