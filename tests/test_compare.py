"""Comparing runs: groups and their names, numbers by hand, names that need escaping, and ``hakg compare``."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import SMALL, check_refusal, contents, hakg, refuse, usage
from scipy import stats
from small_demo import small_demo

from hakg_dgl import Evaluation, compare
from hakg_dgl.errors import ConfigError, DataError, IntegrityError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.comparison import metric_cut
from hakg_dgl.ranking.comparison_text import differences_rows, means_rows, to_latex, to_markdown
from hakg_dgl.ranking.run_groups import RunCard, group_runs

# --- groups -----------------------------------------------------------------------------------------------------------

DATA = {"name": "demo", "digest": "a" * 64}


def card(name: str, label: str | None = None, data: dict[str, str] = DATA, notes: Any = (), **settings: Any) -> RunCard:
    return RunCard(name, Settings(settings.pop("kind", "hakg")).replace(settings).to_dict(), data, tuple(notes), label)


def members(*cards: RunCard, **options: Any) -> dict[str, list[str]]:
    return {label: [run.name for run in runs] for label, runs in group_runs(cards, **options)[0].items()}


def test_runs_that_differ_by_chance_alone_are_one_group():
    runs = [card("a", seed=1), card("b", seed=2, device="cpu"), card("c", seed=3, kernels="readable", tensorboard=True)]
    assert members(*runs) == {"hakg": ["a", "b", "c"]}
    assert group_runs(runs)[1] == []


def test_groups_are_named_by_what_differs():
    assert members(
        card("a", seed=1), card("b", lr=0.01, gate=False), card("c", seed=2), card("d", lr=0.01, gate=False, seed=5)
    ) == {"gate=true, lr=0.002": ["a", "c"], "gate=false, lr=0.01": ["b", "d"]}
    assert members(card("a"), card("b", hierarchical_relations=["x", "y"])) == {
        "hierarchical_relations=all": ["a"],
        "hierarchical_relations=x+y": ["b"],
    }
    assert members(card("a", kind="ease"), card("b"), card("c", layers=1)) == {
        "ease": ["a"],
        "hakg, layers=2": ["b"],
        "hakg, layers=1": ["c"],
    }


def test_groups_of_another_model_are_named_by_its_own_settings():
    runs = [card("a", kind="lightgcn", seed=1), card("b", kind="lightgcn", seed=2)]
    assert members(*runs) == {"lightgcn": ["a", "b"]}
    assert members(*runs, card("c", kind="lightgcn", layers=1)) == {"layers=3": ["a", "b"], "layers=1": ["c"]}
    assert members(card("a", kind="ease"), card("b", kind="ease", ease_l2=[5.0])).keys() == {
        "ease_l2=5.0", "ease_l2=25.0+50.0+100.0+200.0+400.0+800.0+1600.0",
    }  # fmt: skip


def test_labels_force_groups_and_mixtures_are_noted():
    runs = [card("a", "mine", lr=0.1), card("b", "mine", lr=0.2), card("c", lr=0.3), card("d", lr=0.3)]
    groups, notes = group_runs(runs)
    assert {label: len(group) for label, group in groups.items()} == {"mine": 2, "hakg": 2}
    assert notes == [
        "Group 'mine' has runs that differ in lr: its sd is not due to chance alone.",
        "Group 'hakg' has several runs with one seed: its sd is too small.",
    ]
    with pytest.raises(ConfigError, match="the label 'hakg' names two groups"):
        group_runs([card("a", "hakg", lr=0.1), card("b")])


def test_notes_of_runs_are_said_once():
    runs = [card(str(i), seed=i, notes=["of all", *(["of some"] if i < 4 else [])]) for i in range(5)]
    assert group_runs(runs)[1] == ["of all", "0, 1, 2 and 1 more: of some"]


def test_what_cannot_be_grouped():
    with pytest.raises(ConfigError, match="no run to compare"):
        group_runs([])
    with pytest.raises(ConfigError, match=r"x/\.\./a: the run is given twice"):
        group_runs([card("a"), card("b"), card("x/../a")])
    with pytest.raises(
        IntegrityError, match=r"b: the run was trained on data set 'music' \(digest bbbbbbbbbbbb\), a on"
    ):
        group_runs([card("a"), card("b", data={"name": "music", "digest": "b" * 64})])
    mixed = [card("a"), card("b", protocol="published")]
    with pytest.raises(ConfigError, match=r"protocols \('validation': a; 'published': b\)"):
        group_runs(mixed)
    assert group_runs(mixed, mixed_protocols=True)[1][0].startswith("Mixed protocols ('validation': a; 'published': b)")


# --- numbers ----------------------------------------------------------------------------------------------------------


def measured(values: Any, users: Any = None, **changes: Any) -> Evaluation:
    """An evaluation with these recall@20 of its users."""
    values = np.asarray(values, dtype=float)
    table = pd.DataFrame({"user": np.arange(len(values)) if users is None else users, "recall@20": values})
    about: dict[str, Any] = {"split": "test", "mask": ("train", "valid"), "ks": (20,), "n_users": len(values)}
    rest = {"n_relevant": 0, "n_candidates": 9, "n_masked_relevant": 0, "metrics": {}, "per_user": table}
    return Evaluation(**about | rest | changes)


def random_groups(n: int = 80) -> dict[str, dict[str, Evaluation]]:
    rng = np.random.default_rng(3)
    skill = rng.random(n) / 2
    return {
        label: {f"{label}{seed}": measured(skill + lift + 0.1 * rng.random(n)) for seed in range(runs)}
        for label, runs, lift in (("low", 3, 0.0), ("best", 2, 0.03), ("same", 1, 0.02))
    }


def recalls(runs: dict[str, Evaluation]) -> np.ndarray:
    return np.stack([run.per_user["recall@20"] for run in runs.values()])


def test_means_spreads_and_differences_by_hand():
    groups = random_groups()
    found = compare(groups, ["recall@20"], resamples=2000)
    assert (found.reference, found.reference_is, found.n_users, found.split) == ("best", "best", 80, "test")
    for group in found.groups:
        values, estimate = recalls(groups[group.label]), group.metrics["recall@20"]
        assert estimate.mean == pytest.approx(values.mean(), rel=1e-12)
        spread = None if len(values) == 1 else values.mean(1).std(ddof=1)
        assert estimate.sd == (spread and pytest.approx(spread, rel=1e-9))
        assert [run["recall@20"] for run in group.runs.values()] == pytest.approx(values.mean(1), rel=1e-12)
        error = values.mean(0).std() / 80**0.5
        assert [estimate.low, estimate.high] == pytest.approx(
            [estimate.mean - 1.96 * error, estimate.mean + 1.96 * error], abs=0.25 * error
        )
    best = recalls(groups["best"]).mean(0)
    p_values = []
    for difference in found.differences:
        apart = recalls(groups[difference.group]).mean(0) - best
        assert difference.mean == pytest.approx(apart.mean(), rel=1e-9)
        assert difference.low < difference.mean < difference.high
        assert difference.p_test == pytest.approx(stats.ttest_1samp(apart, 0).pvalue, rel=1e-9)
        assert (difference.wins, difference.ties, difference.losses) == ((apart > 0).sum(), 0, (apart < 0).sum())
        p_values.append(difference.p_test)
    assert [d.group for d in found.differences] == ["low", "same"]
    assert found.differences[0].p_test_holm == pytest.approx(2 * min(p_values))
    assert found.differences[0].p_bootstrap == 1 / 2001
    assert found.differences[1].p_bootstrap > 0.1


def test_the_reference_can_be_named_and_seeds_decide_the_draws():
    groups = random_groups()
    named = compare(groups, ["recall@20"], against="low", resamples=500, test="wilcoxon")
    assert (named.reference, named.reference_is, named.test) == ("low", "named", "wilcoxon")
    apart = recalls(groups["best"]).mean(0) - recalls(groups["low"]).mean(0)
    assert named.differences[0].p_test == pytest.approx(stats.wilcoxon(apart).pvalue)
    again, other = (compare(groups, ["recall@20"], against="low", resamples=500, seed=seed) for seed in (2020, 1))
    assert again.groups == named.groups
    assert again.groups != other.groups


def test_equal_groups_are_equal():
    values = np.random.default_rng(0).random(20)
    found = compare({"a": {"x": measured(values)}, "b": {"y": measured(values)}}, ["recall@20"], resamples=100)
    (difference,) = found.differences
    assert (difference.mean, difference.low, difference.high, difference.ties) == (0, 0, 0, 20)
    assert (difference.p_bootstrap, difference.p_test, difference.p_test_holm) == (1, 1, 1)


def test_only_users_of_every_run_count_whatever_their_order():
    first, second = measured([1, 2, 3, 4], [0, 1, 2, 3]), measured([40, 30, 20], [3, 2, 9])
    found = compare({"a": {"x": first}, "b": {"y": second}}, ["recall@20"], resamples=100)
    assert (found.n_users, found.notes) == (2, ("3 users were not measured in every run and are left out.",))
    assert [group.metrics["recall@20"].mean for group in found.groups] == [3.5, 35]
    assert found.differences[0].mean == -31.5


@pytest.mark.parametrize(
    ("other", "options", "error", "message"),
    [
        (measured([1, 2], [7, 8]), {}, DataError, r"no user in common \(x, y\)"),
        (measured([1, 2], [2, 8]), {}, DataError, r"a single user in common \(x, y\)"),
        (measured([1, np.nan, 2]), {}, DataError, "NaN"),
        (measured([1, 2, 3], per_user=None), {}, ConfigError, "y: has no table of users"),
        (measured([1, 2, 3], split="valid"), {}, ConfigError, "y was measured on 'valid'"),
        (measured([1, 2, 3], mask=()), {}, ConfigError, "compare like with like"),
        (measured([1, 2, 3]), {"metrics": ["ndcg@20"]}, ConfigError, r"x: has no ndcg@20; evaluate with ks=\(20,\)"),
        (measured([1, 2, 3]), {"metrics": ["gain"]}, ConfigError, "there is no metric 'gain'"),
        (measured([1, 2, 3]), {"metrics": ["auc"]}, ConfigError, r"x: has no auc; .* also=\('auc',\)"),
        (measured([1, 2, 3]), {"metrics": ["coverage@5"]}, ConfigError, "one number of all lists"),
        (measured([1, 2, 3]), {"metrics": []}, ConfigError, "at least one group and one metric"),
        (measured([1, 2, 3]), {"against": "c"}, ConfigError, "no group 'c' to compare with; the groups are 'a', 'b'"),
        (measured([1, 2, 3]), {"against": ""}, ConfigError, "no group '' to compare with"),
        (measured([1, 2, 3]), {"resamples": 99}, ConfigError, "at least 100"),
        (measured([1, 2, 3]), {"level": 1.0}, ConfigError, "between 0 and 1"),
        (measured([1, 2, 3]), {"test": "z"}, ConfigError, "no test 'z'"),
    ],
)
def test_what_cannot_be_compared(other, options, error, message):
    groups = {"a": {"x": measured([1, 2, 3])}, "b": {"y": other}}
    with pytest.raises(error, match=message):
        compare(groups, **{"metrics": ["recall@20"], "resamples": 100} | options)


def test_no_groups_and_empty_groups():
    with pytest.raises(ConfigError, match="at least one group"):
        compare({})
    with pytest.raises(ConfigError, match="the group 'b' has no run"):
        compare({"a": {"x": measured([1, 2])}, "b": {}}, ["recall@20"])


def test_metrics_and_their_cuts():
    cuts = [metric_cut(metric) for metric in ("recall@20", "mrr@1", "hit@1000000", "map@3", "auc")]
    assert cuts == [20, 1, 1_000_000, 3, None]
    for metric in ("recall", "auc@5", "recall@", "recall@0", "recall@-1", "recall@05", "recall@٣", "recall@1000001"):
        with pytest.raises(ConfigError, match="there is no metric"):
            metric_cut(metric)


# --- texts ------------------------------------------------------------------------------------------------------------

ODD = '[a|b_c*]&%$#{}~^\\<>"`'


def odd_comparison():
    groups = random_groups(30)
    return compare({ODD: groups["low"], "*best": groups["best"]}, ["recall@20"], resamples=100, notes=[f"Of {ODD}\nx"])


def test_rows_for_people():
    found = compare(random_groups(), ["recall@20"], resamples=1000)
    low, _, same = means_rows(found)
    assert list(low) == ["group", "runs", "recall@20", "95% of recall@20"]
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", low["recall@20"])
    assert re.fullmatch(r"0\.\d{4}", same["recall@20"])
    assert re.fullmatch(r"0\.\d{4} to 0\.\d{4}", same["95% of recall@20"])
    row = differences_rows(found)[0]
    assert (row["p bootstrap"], row["p t-test"]) == (f"{2 / 1001:.4f}", "<0.0001")
    assert re.fullmatch(r"-0\.\d{4} to -0\.\d{4}", row["95%"])


def test_markdown_takes_names_literally():
    text = to_markdown(odd_comparison())
    literal = r"\[a\|b\_c\*\]&amp;%\$\#{}\~^" + r"\\\<\>" + r"\"\`".replace('\\"', '"')
    assert f"| {literal} | 3 |" in text
    assert f"**Note:** Of {literal}?x" in text
    lengths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert lengths == {5, 10}


def test_latex_takes_names_literally():
    text = to_latex(odd_comparison())
    literal = (
        r"{[}a\textbar{}b\_c{*}]\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
        r"\textless{}\textgreater{}\textquotedbl{}`"
    )
    assert f"{literal} & 3 & 0." in text
    assert "{*}best & 2 & 0." in text
    assert f"\\textbf{{Note:}} Of {literal}?x" in text
    assert text.count("\\toprule") == text.count("\\bottomrule") == 2
    assert "\\begin{tabular}{lrrr}" in text
    assert "\\begin{tabular}{llrrrrrrr}" in text
    assert re.search(r"recall@20 & \$-\$0\.\d{4} & \$-\$0\.\d{4} to ", text)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data ``D`` and ``other``, runs of two seeds and two formulations, of another model, protocol and data set."""
    place = tmp_path_factory.mktemp("runs")
    small_demo().save(place / "D")
    small_demo(seed=1).save(place / "other")
    for name, data, *options in (
        ("a1", "D", "--seed", 1),
        ("a2", "D", "--seed", 2),
        ("b1", "D", "--seed", 1, "--set", "formulation=released"),
        ("ease", "D", "--model", "ease"),
        ("published", "D", "--protocol", "published"),
        ("other1", "other"),
    ):
        small = ("--device", "cpu", "--set", "refit=false") if name == "ease" else SMALL
        result = hakg("train", place / data, "--out", place / name, *small, *options)
        assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


QUICK = ("--resamples", 200)


def succeed(*args: object) -> str:
    result = hakg("compare", *args, *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def test_the_numbers_are_those_of_evaluate(there: Path, tmp_path: Path) -> None:
    found = json.loads(succeed("a1", "a2", "b1", "--format", "json", "--metric", "ndcg@5", "--metric", "hit@10"))
    means = {}
    for name in ("a1", "a2", "b1"):
        file = tmp_path / f"{name}.json"
        assert hakg("evaluate", name, "--k", 5, "--k", 10, "--no-groups", "--json", file).exit_code == 0
        means[name] = json.loads(file.read_text())["model"]["metrics"]
    paper, released = found["groups"]
    assert (paper["label"], released["label"]) == ("formulation=paper", "formulation=released")
    for group in (paper, released):
        for name, metrics in group["runs"].items():
            assert metrics == pytest.approx({metric: means[name][metric] for metric in ("ndcg@5", "hit@10")}, rel=1e-9)
    ndcg = [means[name]["ndcg@5"] for name in ("a1", "a2")]
    assert paper["metrics"]["ndcg@5"]["sd"] == pytest.approx(np.std(ndcg, ddof=1), abs=1e-12)
    assert released["metrics"]["ndcg@5"]["sd"] is None
    assert [run["run"] for run in found["runs"]] == ["a1", "a2", "b1"]
    assert found["runs"][2]["settings"]["model"]["formulation"] == "released"
    assert (found["resamples"], found["seed"], found["data"]["name"]) == (200, 2020, "demo")
    assert len(found["differences"]) == 2
    assert found["reference"] == max(found["groups"], key=lambda g: g["metrics"]["ndcg@5"]["mean"])["label"]


def test_metrics_beyond_the_usual_are_those_of_evaluate(there: Path) -> None:
    metrics = ("map@5", "auc", "diversity@5", "novelty@5")
    found = json.loads(succeed("a1", "b1", "--format", "json", *(word for m in metrics for word in ("--metric", m))))
    also = [word for metric in metrics for word in ("--also", metric.partition("@")[0])]
    for group in found["groups"]:
        for name, values in group["runs"].items():
            told = json.loads(hakg("evaluate", name, "--k", 5, "--no-groups", *also, "--json", "-").stdout)["model"]
            assert values == pytest.approx({metric: told["metrics"][metric] for metric in metrics}, rel=1e-9)


def test_labels_models_yardsticks_and_the_reference(there: Path) -> None:
    text = succeed("a1", "a2", "ease", "--label", "mine=a2,b1", "--yardsticks", "--against", "popularity")
    lines = [line.split() for line in text.splitlines()]
    first = lines.index(["group", "runs", "recall@20", "95%", "of", "recall@20", "ndcg@20", "95%", "of", "ndcg@20"])
    groups = [(line[0], line[1]) for line in lines[first + 1 : first + 6]]
    assert groups == [("hakg", "1"), ("ease", "1"), ("mine", "2"), ("popularity", "1"), ("random", "3")]
    assert "Note: Group 'mine' has runs that differ in formulation" in text
    assert "Differences from popularity, by user; p values corrected for 8 comparisons (Holm)." in text
    assert "the best" not in text
    valid = succeed("a1", "ease", "--split", "valid", "--test", "wilcoxon")
    assert re.match(r"valid: \d+ users; items of train masked\. ", valid)
    assert "p Wilcoxon" in valid


def test_one_group_has_nothing_beside_it(there: Path) -> None:
    text = succeed("a1", "a2")
    assert "hakg   2 " in text
    assert "Differences" not in text
    assert json.loads(succeed("a1", "--format", "json"))["differences"] == []


@pytest.mark.parametrize(
    ("file", "options", "beginning"),
    [
        ("t.md", (), "test: "),
        ("t.tex", (), "% needs"),
        ("t.json", (), "{"),
        ("t.txt", (), "test: "),
        ("t.txt", ("--format", "latex"), "% needs"),
    ],
)
def test_the_name_of_the_file_tells_the_format(
    there: Path, tmp_path: Path, file: str, options: Any, beginning: str
) -> None:
    out = tmp_path / "deep" / file
    assert succeed("a1", "b1", "--out", out, *options) == f"Wrote {out}: 2 groups, 2 runs\n"
    assert out.read_text().startswith(beginning)
    assert [path.name for path in out.parent.iterdir()] == [file]


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json"])
def test_every_output_says_what_must_be_said(there: Path, tmp_path: Path, form: str) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(there / "a2", unfinished)
    (unfinished / "result.json").unlink()
    text = succeed("a1", "published", unfinished, "--mixed-protocols", "--format", form)
    for note in ("Mixed protocols", "Protocol 'published': selected on the test split", "Training has not finished"):
        assert note in text
    alone = succeed("published", "--format", form)
    assert "Protocol 'published': selected on the test split" in alone
    assert "Mixed" not in alone


def bad_label(text: str) -> str:
    message = f"Invalid value for '--label': {text!r}: write a name and its runs, such as EASE=runs/ease-1,runs/ease-2"
    return usage("compare", message).replace(" RUN\n", " RUN...\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", usage("compare", "name the runs to compare: hakg compare RUN RUN").replace(" RUN\n", " RUN...\n")),
        ("a1 --label x", bad_label("x")),
        ("a1 --label =b1", bad_label("=b1")),
        ("a1 --label x=b1,", bad_label("x=b1,")),
        ("a1 --label x=b1 --label y=b1", "b1: the run is given twice; name it once"),
        ("a1 b1 ./a1", "a1: the run is given twice; name it once"),
        (
            "a1 b1 --metric auc@5",
            "there is no metric 'auc@5'; write auc, or one of recall, ndcg, precision, hit, mrr, map, diversity, "
            "novelty and a cut of 1 to a million, such as ndcg@20",
        ),
        (
            "a1 b1 --against best",
            "there is no group 'best' to compare with; the groups are 'formulation=paper', 'formulation=released'",
        ),
        (
            "a1 published",
            "the runs have different protocols ('validation': a1; 'published': published): those of 'published' were "
            "selected on the test split, which favours them\n"
            "Compare runs of one protocol, or add --mixed-protocols; every output then says so.",
        ),
        (
            "a1 other1",
            re.compile(
                r"other1: the run was trained on data set 'demo' \(digest \w{12}\), a1 on 'demo' \(digest \w{12}\)\n"
                "Compare runs of one data set. Another split or another filter makes another data set."
            ),
        ),
        (
            "published --split valid",
            "published: its model was trained on the validation split too; compare on the test split",
        ),
        ("nowhere", "nowhere: no such folder\nMake a run with 'hakg train DATA --out RUN'."),
        ("a1 nowhere", "nowhere: no such folder\nMake a run with 'hakg train DATA --out RUN'."),
        (
            "a1 D",
            "D: has no run.json, so it is not a run, or one that has not come so far; train with "
            "`hakg train DATA --out RUN`, or continue with --resume",
        ),
        (
            "--label random=a1 b1 --yardsticks",
            usage("compare", "--yardsticks adds a group 'random', and there is one: name yours with --label").replace(
                " RUN\n", " RUN...\n"
            ),
        ),
    ],
)
def test_what_compare_refuses(there: Path, args: str, message: Any) -> None:
    refuse(message, "compare", *args.split())


@pytest.mark.parametrize("file", ["t.md", "t.json"])
def test_a_full_disk_leaves_the_earlier_file(there: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("something good")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may grow beyond 100 bytes
    try:
        result = hakg("compare", "a1", "b1", "--out", tmp_path / file, *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = f"{tmp_path / file}: {os.strerror(errno.EFBIG)}"
    check_refusal(result.exit_code, result.stdout, result.stderr, message)
    assert contents(tmp_path) == {file: b"something good"}


def test_places_that_cannot_be_written(there: Path, tmp_path: Path) -> None:
    message = usage("compare", f"Invalid value for '--out': File '{tmp_path}' is a directory.")
    refuse(message.replace(" RUN\n", " RUN...\n"), "compare", "a1", "--out", tmp_path)
