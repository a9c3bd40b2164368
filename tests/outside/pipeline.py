"""From raw data to explained lists, as docs/python-api.md describes it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import hakg_dgl


def report(progress: hakg_dgl.Progress) -> None:
    """Print what an epoch came to."""
    if progress.metrics is not None:
        print(progress.epoch, progress.loss, progress.metrics["ndcg@20"])


def main(folder: Path) -> float:
    """Preprocess, train, evaluate, recommend, explain and export; the result is the recall on the test split."""
    options = hakg_dgl.PreprocessOptions(min_user_interactions=5, split="random", test=0.2, valid=0.1)
    dataset = hakg_dgl.preprocess(hakg_dgl.generate_demo(), options)
    dataset.save(folder / "data")
    dataset = hakg_dgl.load_dataset(folder / "data")
    settings = hakg_dgl.Settings.resolve(overrides={"epochs": 1, "dim": 8, "negatives": 8})
    trainer = hakg_dgl.Trainer(dataset, settings, run=folder / "run", on_progress=report)
    result = trainer.fit()
    print(result["best_epoch"], hakg_dgl.RunFolder(folder / "run").metrics[-1])

    model = hakg_dgl.load_model(folder / "run", dataset)
    scorer = hakg_dgl.EmbeddingScorer(*model.ranking_vectors())
    evaluation: hakg_dgl.Evaluation = hakg_dgl.evaluate(scorer, dataset, split="test", ks=(10, 20))
    popular = hakg_dgl.evaluate(hakg_dgl.PopularityScorer(dataset), dataset)
    print(evaluation.metrics["recall@20"] - popular.metrics["recall@20"])

    lists = hakg_dgl.recommend(scorer, np.array([0, 1]), k=5, seen=dataset.positives("train", "valid"))
    lists.to_csv(folder / "lists.csv", index=False)
    explanation = hakg_dgl.explain(model, dataset, user=0, item=5)
    explanation.past_items.to_csv(folder / "why.csv", index=False)
    print(hakg_dgl.similar_items(model, np.array([3]), k=4))
    print(hakg_dgl.score_pairs(scorer, np.array([0, 1]), np.array([5, 6])))
    hakg_dgl.export(model, dataset, folder / "vectors")
    return evaluation.metrics["recall@20"]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except hakg_dgl.HakgError as error:
        sys.exit(str(error))
