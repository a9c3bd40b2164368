"""``hakg audit``: what is trained on which facts, going on after interruptions, what is said of it, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import hakg
from dense import on_one_thread
from small_demo import small_demo, small_settings, with_interactions

from hakg_dgl import AuditStudy, Dataset, Evaluation, RunsProgress, Settings, compare, evaluate, load_scorer
from hakg_dgl.data.fact_variants import shuffled_facts
from hakg_dgl.errors import CheckpointError, ConfigError, IntegrityError, NumericalError
from hakg_dgl.models.registry import models_that
from hakg_dgl.ranking.evaluation import cold_items, equal_share_groups
from hakg_dgl.ranking.statistics import holm, paired_p_values
from hakg_dgl.ranking.yardsticks import PopularityScorer
from hakg_dgl.studies.ablation import AblationStudy
from hakg_dgl.studies.audit_segments import SEGMENTS, measured, segment_metrics
from hakg_dgl.studies.audit_verdict import verdict
from hakg_dgl.studies.audited_facts import LABELS, chosen_facts
from hakg_dgl.studies.runs import METRICS

DEMO = small_demo()
SETTINGS = small_settings(epochs=2, dim=4, refit=True, linear_rank=4, batch_size=640)
PROFILE = small_settings("facts-profile")
FEW = ("none", "thinned-50")
one_thread = pytest.fixture(autouse=True)(on_one_thread)


def with_new_items(dataset: Dataset) -> Dataset:
    """The items 0 to 7 are chosen in the test split alone."""
    rows = dataset.interactions
    return with_interactions(dataset, rows[(rows["split"] == "test") | (rows["item"] > 7)])


NEW = with_new_items(small_demo(test=0.3))


# --- a study ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditStudy, dict[str, Any], list[RunsProgress]]:
    """HAKG on true facts, none and half of them, with two seeds, in one go."""
    seen: list[RunsProgress] = []
    study = AuditStudy(tmp_path_factory.mktemp("audit") / "study", NEW, SETTINGS, seeds=(2, 1))
    return study, study.run(FEW, resamples=100, on_progress=seen.append), seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditStudy, dict[str, Any]]:
    """The profile of facts, which is nothing without them, on all facts with two seeds."""
    study = AuditStudy(tmp_path_factory.mktemp("audit") / "study", DEMO, PROFILE, seeds=(1, 2))
    return study, study.run(resamples=200)


def results(report: dict[str, Any]) -> dict[tuple[str, int], Any]:
    return {(run["facts"], run["seed"]): (run["best_epoch"], run["metrics"]) for run in report["runs"]}


def test_every_kind_of_facts_is_trained_on_with_every_seed(study: Any, whole: Any) -> None:
    made, report, seen = study
    assert sorted(results(report)) == sorted((name, seed) for name in ("true", *FEW) for seed in (1, 2))
    assert [(seen[0].done, seen[0].total), (seen[-1].done, seen[-1].total)] == [(0, 6), (6, 6)]
    assert {progress.running for progress in seen} >= {"true facts, seed 1", "no facts, seed 2"}
    digests = {run.name: json.loads((run.folder / "run.json").read_text())["data"]["digest"] for run in made.planned()
               if run.finished and run.seed == 1}  # fmt: skip
    assert digests["true"] == NEW.digest
    assert len(set(digests.values())) == 3
    profile, all_facts = whole
    assert sorted(results(all_facts)) == sorted((name, seed) for name in LABELS for seed in (1, 2))
    shares = {facts["name"]: facts["share_true"] for facts in all_facts["facts"]}
    n = len(DEMO.triples)
    assert (shares["true"], shares["none"], shares["thinned-25"]) == (1, 0, round(0.25 * n) / n)
    shuffled = [
        1 - len({*map(tuple, DEMO.triples.to_numpy())} - {*map(tuple, profile.dataset_of(run).triples.to_numpy())}) / n
        for run in profile.planned()
        if run.name == "shuffled"
    ]
    assert shares["shuffled"] == pytest.approx(np.mean(shuffled))


def test_the_report_compares_the_same_users_and_seeds(study: Any) -> None:
    made, report, _ = study
    assert json.loads((made.path / "report.json").read_text()) == report
    by_facts: dict[str, list[pd.DataFrame]] = {}
    for run in made.planned(FEW):
        data = made.dataset_of(run)
        found = evaluate(load_scorer(run.folder, data), data, per_user=True).per_user
        assert found is not None
        by_facts.setdefault(run.label, []).append(found.set_index("user")[list(METRICS)])
    mean = {label: sum(tables) / 2 for label, tables in by_facts.items()}
    rows = report["segments"]["all"]["comparison"]["differences"]
    differences = np.column_stack(
        [mean[row["group"]][row["metric"]] - mean["true facts"][row["metric"]] for row in rows]
    )
    assert [row["mean"] for row in rows] == pytest.approx(differences.mean(0), abs=1e-9)
    p_values = paired_p_values(differences)
    assert [row["p_test"] for row in rows] == pytest.approx(p_values, rel=1e-6)
    assert [row["p_test_holm"] for row in rows] == pytest.approx(holm(p_values), rel=1e-6)
    assert report["verdict"] == report["segments"]["all"]["sentence"]
    assert "6 of 12 runs are finished; 2 seeds are compared." in report["notes"]


def test_kger_is_the_loss_divided_by_the_share_of_facts_that_is_gone(whole: Any) -> None:
    _, report = whole
    shares = {facts["label"]: facts["share_true"] for facts in report["facts"]}
    for segment in report["segments"].values():
        found = segment["comparison"]
        means = {group["label"]: group["metrics"] for group in found["groups"]}
        assert len(segment["utilisation"]) == 2 * (len(LABELS) - 1)
        for row, difference in zip(segment["utilisation"], found["differences"], strict=True):
            true, other = (means[label][row["metric"]]["mean"] for label in ("true facts", row["facts"]))
            assert row["kger"] == pytest.approx((true - other) / true / (1 - shares[row["facts"]]))
            assert row["change"] == pytest.approx((other - true) / true, abs=1e-12)
            assert row["kger_low"] <= row["kger"] <= row["kger_high"]
            assert row["low"] == pytest.approx(difference["low"] / true)


def test_the_report_to_read_has_the_sentence_first_and_every_number(whole: Any) -> None:
    made, report = whole
    text = (made.path / "report.md").read_text()
    lines = [line for line in text.splitlines() if line]
    assert lines[:2] == ["# What the facts of demo are worth to facts-profile", f"**{report['verdict']}**"]
    for name, segment in report["segments"].items():
        assert f"## {SEGMENTS[name].capitalize()}" in text
        assert name == "all" or f"- **{SEGMENTS[name].capitalize()}.** {segment['sentence']}" in text
        for group in segment["comparison"]["groups"]:
            assert f"{group['metrics']['ndcg@20']['mean']:.4f}" in text
        for row in segment["utilisation"]:
            assert f"| {row['change']:+.1%} |" in text
            assert f"| {row['kger']:+.3f} |" in text


def test_finished_runs_are_not_touched_and_more_seeds_are_added(study: Any) -> None:
    made, report, _ = study
    models = {path: path.stat().st_mtime_ns for path in made.path.rglob("model.safetensors")}
    again = AuditStudy(made.path, NEW)
    assert (again.settings, again.seeds) == (SETTINGS, (1, 2))
    assert again.run(FEW, resamples=100) == report
    assert {path: path.stat().st_mtime_ns for path in models} == models
    about = made.about_file.read_bytes()
    assert AuditStudy(made.path, NEW, seeds=[7]).seeds == (1, 2, 7)
    made.about_file.write_bytes(about)


def test_an_audit_that_was_interrupted_comes_to_the_same_result(study: Any, tmp_path: Path) -> None:
    _, report, _ = study

    def stop(progress: RunsProgress) -> None:
        if (progress.done, progress.epoch) == (2, 2):
            raise KeyboardInterrupt

    made = AuditStudy(tmp_path / "study", NEW, SETTINGS, seeds=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        made.run(FEW, resamples=100, on_progress=stop)
    part = json.loads((made.path / "report.json").read_text())
    assert (len(part["runs"]), part["seeds"]) == (2, [1])
    assert part["verdict"].startswith("With the one seed that was trained: ")
    again = AuditStudy(made.path, NEW).run(FEW, resamples=100)
    assert results(again) == results(report)
    assert again["segments"] == report["segments"]


@pytest.mark.slow
def test_several_workers_come_to_the_same_result(whole: Any, tmp_path: Path) -> None:
    _, report = whole
    made = AuditStudy(tmp_path / "study", DEMO, PROFILE, seeds=(1, 2))
    assert made.run(workers=2, threads=1, resamples=200)["segments"] == report["segments"]


def test_facts_that_come_out_the_same_are_trained_on_once(tmp_path: Path) -> None:
    """One fact: half of it and a quarter are none, three quarters are all of it, and shuffling changes nothing."""
    one = dataclasses.replace(DEMO, triples=DEMO.triples.head(1))
    made = AuditStudy(tmp_path / "study", one, PROFILE, seeds=(1,))
    assert [run.name for run in made.planned()] == ["true", "none"]
    report = made.run(resamples=100)
    assert len(report["runs"]) == 2
    assert [facts["name"] for facts in report["facts"]] == list(LABELS)
    groups = {group["label"]: group["metrics"] for group in report["segments"]["all"]["comparison"]["groups"]}
    assert groups["75% of the facts"] == groups["shuffled facts"] == groups["true facts"]
    assert groups["50% of the facts"] == groups["25% of the facts"] == groups["no facts"]
    assert "Shuffling leaves 100% of the facts true: most relations have few tails." in report["notes"]


def test_a_run_that_fails_is_reported_and_tried_again(tmp_path: Path) -> None:
    def fail(progress: RunsProgress) -> None:
        if progress.running == "no facts, seed 1":
            raise NumericalError("the loss became nan")

    made = AuditStudy(tmp_path / "study", DEMO, SETTINGS.replace({"epochs": 1}), seeds=[1])
    report = made.run(["none"], resamples=100, on_progress=fail)
    assert report["failed"] == [{"facts": "none", "seed": 1, "reason": "NumericalError: the loss became nan"}]
    assert (report["segments"], report["verdict"]) == ({}, "Nothing is known yet: too few runs are finished.")
    assert {"no facts, seed 1 failed.", "One seed: what chance in training does is not seen."} <= {*report["notes"]}
    again = made.run(["none"], resamples=100)
    assert (len(again["runs"]), again["failed"]) == (2, [])


# --- segments -----------------------------------------------------------------------------------------------------


def test_the_segments_agree_with_the_groups_of_an_evaluation() -> None:
    scorer = PopularityScorer(NEW)
    table = measured(scorer, NEW)
    means = table.groupby("segment")[list(METRICS)].mean()
    found = evaluate(scorer, NEW, groups=True)
    assert found.groups is not None
    assert means.loc["all"].to_dict() == pytest.approx({metric: found.metrics[metric] for metric in METRICS})
    (tail,) = (row for row in found.groups["item_popularity"] if row["group"] == "tail")
    assert means.loc["tail", "recall@20"] == pytest.approx(tail["recall@20"])
    (cold,) = (row for row in found.groups["item_novelty"] if row["group"] == "cold")
    assert means.loc["new-items"].to_dict() == pytest.approx({metric: cold[metric] for metric in METRICS})
    alone = evaluate(scorer, NEW, candidates=cold_items(NEW))
    assert means.loc["new-items-alone"].to_dict() == pytest.approx(
        {metric: alone.metrics[metric] for metric in METRICS}
    )
    few = [row for row in found.groups["user_activity"] if row["group"] in ("none", "few")]
    n = sum(row["n_users"] for row in few)
    expected = {metric: sum(row[metric] * row["n_users"] for row in few) / n for metric in METRICS}
    assert means.loc["few-interactions"].to_dict() == pytest.approx(expected)
    counts = np.bincount(NEW.pairs("train")[:, 0], minlength=NEW.n_users)
    members = np.flatnonzero(equal_share_groups(counts, 4) <= 1)
    assert set(table.loc[table["segment"] == "few-interactions", "user"]) <= set(members)


def test_a_segment_that_nobody_is_in_is_absent(whole: Any) -> None:
    _, report = whole
    assert list(report["segments"]) == ["all", "tail", "few-interactions"]


def test_a_table_of_users_that_is_of_another_model_is_measured_again(study: Any) -> None:
    made, _, _ = study
    run = made.planned(["none"])[1]
    data, file = made.dataset_of(run), run.folder / "segments.parquet"
    good = segment_metrics(run, data)
    for spoil in (
        lambda: good.assign(**{"ndcg@20": good["ndcg@20"] + 0.1}).to_parquet(file),
        lambda: file.write_bytes(b"no table"),
        lambda: good[["user"]].to_parquet(file),
        file.unlink,
    ):
        spoil()
        pd.testing.assert_frame_equal(segment_metrics(run, data), good)
        pd.testing.assert_frame_equal(pd.read_parquet(file), good)


# --- what is said -------------------------------------------------------------------------------------------------


def test_where_facts_matter_it_is_said(whole: Any) -> None:
    """The demo's users choose by genre, and the profile of facts knows nothing else."""
    _, report = whole
    assert report["verdict"].startswith("The facts help: without them Recall@20 falls by ")
    assert ", and with shuffled facts it falls by " in report["verdict"]
    (row,) = (
        row
        for row in report["segments"]["all"]["comparison"]["differences"]
        if (row["group"], row["metric"]) == ("no facts", "recall@20")
    )
    assert (row["p_test_holm"] < 0.05, row["high"] < 0) == (True, True)
    assert f"(p = {row['p_test_holm']:.3f})" in report["verdict"]


def test_where_facts_say_nothing_it_is_said(tmp_path: Path) -> None:
    """The demo's facts, shuffled before: they say nothing of what users choose."""
    noise = shuffled_facts(DEMO, np.random.default_rng(5))
    report = AuditStudy(tmp_path / "study", noise, small_settings("ease+facts"), seeds=(1, 2)).run(resamples=200)
    for segment in report["segments"].values():
        assert segment["sentence"].startswith("No difference beyond chance was found: without facts Recall@20 changes")


def evaluation(values: np.ndarray) -> Evaluation:
    table = pd.DataFrame({"user": range(len(values)), "n_relevant": 1, "recall@20": values, "ndcg@20": values})
    return Evaluation("test", ("train", "valid"), (20,), len(values), len(values), 9, 0, {}, per_user=table)


def said(none: list[float] | None, shuffled: list[float] | None) -> str:
    """The sentence for differences from the true facts, one for each seed, over 400 users."""
    true = np.random.default_rng(0).uniform(0.2, 0.6, 400)
    noise = np.random.default_rng(1).normal(0, 0.05, 400)
    n_seeds = len(none or shuffled or [])
    groups = {"true facts": [0.0] * n_seeds, "no facts": none, "shuffled facts": shuffled}
    runs = {
        label: {f"seed {n}": evaluation(true + (label != "true facts") * noise + by) for n, by in enumerate(each)}
        for label, each in groups.items()
        if each is not None
    }
    return verdict(compare(runs, METRICS, against="true facts", resamples=100))


@pytest.mark.parametrize(
    ("none", "shuffled", "begin", "end"),
    [
        ([-0.1, -0.1], [-0.1, -0.1], "The facts help: without them Recall@20 falls", ", and with shuffled facts it"),
        ([-0.1, -0.1], [0.0, 0.0], "The facts help: ", ", but with shuffled facts no difference beyond"),
        ([-0.1, -0.1], [0.1, 0.1], "The facts help: ", ", but with shuffled facts it rises by"),
        ([0.1, 0.1], [0.1, 0.1], "The facts harm: without them Recall@20 rises", ", and with shuffled facts it rises"),
        ([0.0, 0.0], [0.0, 0.0], "No difference beyond chance was found: without", ", and with shuffled facts it"),
        ([0.0, 0.0], [-0.1, -0.1], "No difference beyond chance was found: ", ", but with shuffled facts it falls by"),
        ([-0.3, 0.1], None, "No difference beyond chance was found: ", "but the seeds disagree on its sign)."),
        ([-0.1], None, "With the one seed that was trained: the facts help: without them", "(p < 0.001)."),
        (None, [-0.1, -0.1], "True facts do better than shuffled ones, with which Recall@20 falls by", "(p < 0.001)."),
        (None, [0.0, 0.0], "No difference beyond chance was found: with shuffled facts Recall@20 changes by", ")."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_tests_allow(
    none: list[float] | None, shuffled: list[float] | None, begin: str, end: str
) -> None:
    sentence = said(none, shuffled)
    assert sentence.startswith(begin)
    assert end in sentence
    assert sentence.endswith(").")


# --- the figure ---------------------------------------------------------------------------------------------------


def test_the_figure_has_every_segment_and_is_the_same_each_time(whole: Any) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    made, report = whole
    files = [made.path / f"audit{suffix}" for suffix in (".png", ".svg")]
    before = [file.read_bytes() for file in files]
    assert before[0].startswith(b"\x89PNG")
    for words in ("shuffled", "NDCG@20", "25%", *(SEGMENTS[name] for name in report["segments"])):
        assert words in before[1].decode()
    made.run(resamples=200)
    assert [file.read_bytes() for file in files] == before


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_model_that_reads_no_facts_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind = 'ease' reads no facts") as caught:
        AuditStudy(tmp_path / "study", DEMO, Settings("ease"))
    assert ", ".join(models_that("facts")) in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_data_and_settings_that_cannot_be_audited_are_refused(tmp_path: Path) -> None:
    none = dataclasses.replace(DEMO, triples=DEMO.triples.head(0))
    with pytest.raises(ConfigError, match="data set 'demo' has no triples, so there are no facts to audit"):
        AuditStudy(tmp_path / "study", none, SETTINGS)
    with pytest.raises(ConfigError, match="has no test interactions, which the study needs"):
        AuditStudy(tmp_path / "study", small_demo(test=0.0), SETTINGS)
    with pytest.raises(ConfigError, match="the study must not select on the test split"):
        AuditStudy(tmp_path / "study", DEMO, SETTINGS.replace({"protocol": "published"}))
    with pytest.raises(ConfigError, match="seed = -1"):
        AuditStudy(tmp_path / "study", DEMO, SETTINGS, seeds=[-1])
    assert not (tmp_path / "study").exists()
    with pytest.raises(ConfigError, match="there are no facts called 'half'; choose from true, none, shuffled"):
        chosen_facts(["half"])


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    made = AuditStudy(tmp_path / "study", DEMO, SETTINGS)
    with pytest.raises(ConfigError, match=r"the study has other settings: lr \(was 0.01, now 0.5\)"):
        AuditStudy(tmp_path / "study", DEMO, SETTINGS.replace({"lr": 0.5}))
    with pytest.raises(IntegrityError, match="the study is on data set 'demo'"):
        AuditStudy(tmp_path / "study", small_demo(seed=3), SETTINGS)
    with pytest.raises(CheckpointError, match="the study is one by 'hakg audit', not by 'hakg ablate'"):
        AblationStudy(tmp_path / "study", DEMO)
    with pytest.raises(ConfigError, match="workers = 0"):
        made.run(FEW, workers=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(CheckpointError, match="holds something else than an audit"):
        AuditStudy(tmp_path / "other", DEMO, SETTINGS)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_trains_reports_and_goes_on(tmp_path: Path) -> None:
    DEMO.save(tmp_path / "D")
    out = tmp_path / "study"
    first = hakg(
        "audit", tmp_path / "D", "--out", out, "--model", "facts-profile", "--seeds", 3, 4, "--only", "none",
        "--resamples", 100,
    )  # fmt: skip
    assert first.exit_code == 0, first.output
    report = json.loads((out / "report.json").read_text())
    assert first.stdout.splitlines()[0] == report["verdict"]
    assert f"Wrote {out}: report.md and .json, 4 runs" in first.stdout
    paths = {run: json.loads((out / "runs" / run / "seed-3" / "run.json").read_text())["data"]["path"]
             for run in ("true", "none")}  # fmt: skip
    assert paths == {"true": str((tmp_path / "D").resolve()), "none": None}
    more = hakg("audit", tmp_path / "D", "--out", out, "--resamples", 100, "--json", "--quiet")
    assert more.exit_code == 0, more.output
    assert more.stderr == ""
    assert len(json.loads(more.stdout)["runs"]) == 12
    assert json.loads(more.stdout) == json.loads((out / "report.json").read_text())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "ease"], "kind = 'ease' reads no facts"),
        (["--seeds", "a"], "'a': write whole numbers, such as 2020 2021 2022"),
        (["--only", "half"], "there are no facts called 'half'; choose from true"),
        (["--set", "nonsense=1"], "there is no setting 'nonsense'"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, args: list[str], message: str) -> None:
    DEMO.save(tmp_path / "D")
    result = hakg("audit", tmp_path / "D", "--out", tmp_path / "study", *args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "study" / "runs").exists()
