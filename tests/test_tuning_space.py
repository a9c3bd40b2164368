"""The search space: what a file may say, and that only what a setting allows is drawn."""

from __future__ import annotations

import datetime
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.hakg.settings import HINGE_SPACE
from hakg_dgl.models.registry import BUILT_IN, model_class
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.search_space import _FIXED, Choice, Range, SearchSpace

DEFAULT_SPACES = {name: model_class(name).space for name in BUILT_IN if model_class(name).space}
DEFAULT_SPACES["hakg-hinge"] = HINGE_SPACE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

optuna = pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")


def load(tmp_path: Path, text: str) -> SearchSpace:
    file = tmp_path / "space.toml"
    file.write_text(text, encoding="utf-8")
    return SearchSpace.load(file)


def draws(space: SearchSpace, count: int = 30) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_a_file_with_ranges_choices_and_tables(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        "lr = { low = 1e-4, high = 1e-2, log = true }\n"
        'formulation = ["paper", "released"]\n'
        "[model]\nlayers = { low = 1, high = 3 }\ngate = [true, false]\n"
        "message_dropout = { low = 0, high = 0.5, step = 0.1 }\n"
        '[loss]\nhierarchical_relations = [["all"], "auto", ["made_by", "of_year"]]\n'
        "[run]\ndtype = ['float32', 'float64']\n",
    )
    assert space.dimensions == {
        "lr": Range(1e-4, 1e-2, log=True),
        "formulation": Choice(("paper", "released")),
        "layers": Range(1, 3),
        "gate": Choice((True, False)),
        "message_dropout": Range(0.0, 0.5, step=0.1),
        "hierarchical_relations": Choice((("all",), ("auto",), ("made_by", "of_year"))),
        "dtype": Choice(("float32", "float64")),
    }
    seen = draws(space)
    assert {values["layers"] for values in seen} == {1, 2, 3}
    assert {values["gate"] for values in seen} == {True, False}
    assert all(round(values["message_dropout"] * 10, 6) in range(6) for values in seen)
    assert {values["hierarchical_relations"] for values in seen} == {("all",), ("auto",), ("made_by", "of_year")}
    assert {values["dtype"] for values in seen} == {"float32", "float64"}
    for values in seen:
        assert isinstance(Settings().replace(values), Settings)
    below_1e3 = sum(values["lr"] < 1e-3 for values in draws(space, 200))
    assert 60 < below_1e3 < 140, "the logarithm is drawn evenly, so half are in the lower decade"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lrr = [0.1, 0.2]", "no setting 'lrr'; did you mean 'lr'"),
        ("[trainning]\nlr = [0.1, 0.2]", "no setting 'trainning'"),
        ("[loss]\nlr = [0.1, 0.2]", "no setting 'loss.lr'"),
        ("lr = { low = 1e-3, high = 1e3 }", "lr = 1000.0 is not allowed"),
        ("lr = { low = 0.0, high = 1.0 }", "lr = 0.0 is not allowed"),
        ("lr = { low = 1e-3 }", "lr: the range has no 'high'"),
        ("lr = { low = 1e-3, high = 1e-2, lgo = true }", "lr: there is no 'lgo' in a range"),
        ("lr = { low = 1e-2, high = 1e-3 }", "low = 0.01 is not below high = 0.001"),
        ("lr = { low = 1e-3, high = 1e-2, log = 1 }", "log = 1 must be true or false"),
        ("angle_weight = { low = 0, high = 0.1, log = true }", "low = 0.0 has no logarithm"),
        ("lr = { low = 1e-3, high = 1e-2, log = true, step = 1e-3 }", "log and step exclude each other"),
        ("margin = { low = 0.1, high = 0.6, step = 0.2 }", "high = 0.6 is not a whole number of steps of 0.2"),
        ("margin = { low = 0.1, high = 0.6, step = nan }", "step = nan must be above 0"),
        ("margin = { low = 0.1, high = 0.6, step = -0.1 }", "step = -0.1 must be above 0"),
        ("margin = { low = 0.1, high = 0.6, step = 'x' }", "step = 'x' must be a number"),
        ("layers = { low = 1, high = 3, step = 0.5 }", "step = 0.5 must be a whole number"),
        ("layers = { low = 1.0, high = 3.0 }", "layers = 1.0: must be a whole number"),
        ("gate = { low = false, high = true }", "gate: low = False is not a number; give a list of choices"),
        ("formulation = { low = 'paper', high = 'released' }", "low = 'paper' is not a number; give a list"),
        ("formulation = ['paper', 'papre']", "'papre' is not allowed: it must be one of 'released', 'paper'"),
        ("layers = [1]", "at least two values, all different"),
        ("layers = [1, 2, 1]", "at least two values, all different"),
        ("lr = [1, 1.0]", "at least two values, all different"),
        ("lr = 0.1", "is one value, not a search"),
        ("lr = [{ low = 1 }, 2]", "is not a value of a setting"),
        ("lr = [1e-3, 1e-2]\ntraining.lr = [1e-3, 1e-2]", "training.lr: is there twice"),
        ("seed = [1, 2]", "seed: cannot be searched: a seed chosen by its validation metric is luck"),
        ("training.protocol = ['validation', 'published']", "cannot be searched: a search selects on the validation"),
        ("kind = ['hakg', 'ease']", "cannot be searched: each kind of model"),
        ("", "there is nothing to search"),
        ("lr = [", "is not valid TOML"),
        ("lr = [1" + "0" * 400 + ", 1]", "is too large"),
    ],
)
def test_a_wrong_space_is_refused_with_the_file_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "space.toml") in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        SearchSpace.load(tmp_path / "none.toml")


@pytest.mark.parametrize("kind", DEFAULT_SPACES)
def test_the_default_space_of_every_kind_of_model_fits_its_settings(kind: str) -> None:
    settings = Settings.resolve(preset="paper") if kind == "hakg-hinge" else Settings.resolve(overrides={"kind": kind})
    space = SearchSpace.default(settings)
    for values in draws(space):
        settings.replace(values)
    for key, dimension in space.dimensions.items():
        chosen = settings.values()[key]
        if isinstance(dimension, Range) and not isinstance(chosen, tuple):
            assert dimension.low <= chosen <= dimension.high, f"{key}: the default lies outside"


@given(st.data())
def test_settings_lie_in_a_space_where_they_are_or_next_to_it(data: st.DataObject) -> None:
    """What the sampler is told of settings is always of the space, and is them where they are in it."""
    low = data.draw(st.floats(1e-6, 1.0))
    step = data.draw(st.sampled_from([None, 0.25]))
    numbers = Range(
        low if step is None else 0.25, low + data.draw(st.floats(0.1, 5.0)) if step is None else 2.0, step=step
    )
    whole = Range(1, 9, step=data.draw(st.sampled_from([None, 2])))
    for space, value in (
        (numbers, data.draw(st.floats(0.0, 10.0))),
        (whole, data.draw(st.integers(-3, 20))),
        (numbers, tuple(data.draw(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=4)))),
    ):
        near = space.nearest(value)
        assert space.low <= near <= space.high
        assert space.holds(near)
        assert space.nearest(near) == near
        if not isinstance(value, tuple):
            assert space.holds(value) == (near == value)
            assert abs(near - value) <= min(abs(n - value) for n in (space.low, space.high)) + 1e-12


def test_what_has_no_effect_under_a_loss_is_not_searched() -> None:
    softmax, hinge = (
        set(SearchSpace.default(Settings.resolve(preset=name)).dimensions) for name in ("default", "paper")
    )
    assert softmax.isdisjoint({"margin", "negatives"})
    assert hinge.isdisjoint({"temperature", "candidates", "linear_l2"})
    assert {"margin", "negatives"} < hinge


def of(kind: str) -> Settings:
    return Settings() if kind in ("", "hakg-hinge") else Settings(kind)


def test_the_documented_spaces_are_the_default_ones() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "tuning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml( \S+)?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    documented = {kind.strip(): SearchSpace.from_dict(tomllib.loads(text), of(kind.strip())) for kind, text in blocks}
    documented.pop("")  # the example of every form, which is a right one
    assert documented == {kind: SearchSpace.from_dict(space, of(kind)) for kind, space in DEFAULT_SPACES.items()}
    refused = re.search(r"^(`seed`.*) cannot be searched", page, re.MULTILINE)
    assert refused is not None
    assert set(re.findall(r"`(\w+)`", refused[1])) == set(_FIXED)


def test_popularity_has_nothing_to_search() -> None:
    with pytest.raises(ConfigError, match="popularity"):
        SearchSpace.default(Settings.resolve(overrides={"kind": "popularity"}))


FLOATS = {"lr": (1e-8, 100.0), "margin": (-1.0, 1.0), "angle_weight": (0.0, 1e3), "message_dropout": (0.0, 0.99)}
INTEGERS = {"layers": (1, 16), "dim": (1, 4096), "negatives": (1, 100_000)}
CHOICES: dict[str, list[Any]] = {
    "gate": [True, False],
    "formulation": ["paper", "released"],
    "score": ["fused", "separate"],
}


@st.composite
def ranges(draw: st.DrawFn, key: str) -> dict[str, Any]:
    numbers = st.floats(*FLOATS[key], allow_subnormal=False) if key in FLOATS else st.integers(*INTEGERS[key])
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    value: dict[str, Any] = {"low": low, "high": high}
    if low > 0 and draw(st.booleans()):
        value["log"] = True
    elif isinstance(low, int) and isinstance(high, int) and draw(st.booleans()):
        step = draw(st.integers(1, high - low))
        value |= {"high": low + (high - low) // step * step, "step": step}
    return value


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from([*FLOATS, *INTEGERS, *CHOICES]), min_size=1, max_size=5, unique=True))
    written = {key: draw(st.permutations(CHOICES[key])) if key in CHOICES else draw(ranges(key)) for key in keys}
    return {Settings().by_section()[key] + "." + key if draw(st.booleans()) else key: written[key] for key in keys}


@given(spaces())
def test_every_right_space_reads_back_equal_and_draws_only_what_it_says(written: dict[str, Any]) -> None:
    space = SearchSpace.from_dict(written)
    assert [key.rpartition(".")[2] for key in written] == list(space.dimensions)
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert SearchSpace.from_dict(tomllib.loads(tomli_w.dumps(space.to_dict()))) == space
    for values in draws(space, 2):
        Settings().replace(values)
        for key, dimension in space.dimensions.items():
            if isinstance(dimension, Range):
                assert dimension.low <= values[key] <= dimension.high
            else:
                assert values[key] in dimension.values


SCALARS = (
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(datetime.date(2022, 7, 11))
    | st.sampled_from([math.inf, math.nan, 10**400, "paper", 1, 2, 0.1, 0.5])
)  # fmt: skip
TOML = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "log", "step", "lr", "dim", "x"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*Settings().by_section(), "model", "training", "loss", "no_such"]), TOML, max_size=3
    )
)
def test_anything_else_is_a_config_error(values: dict[str, Any]) -> None:
    try:
        space = SearchSpace.from_dict(values)
    except ConfigError:
        return
    for drawn in draws(space, 2):
        Settings().replace(drawn)
