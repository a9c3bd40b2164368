"""Seconds of RecBole's epochs: run by ``models.py`` with an interpreter that has RecBole, and not this package.

    PYTHON benchmarks/recbole_epochs.py FOLDER MODEL EPOCHS THREADS

FOLDER holds ``data/data.{inter,kg,link}`` as RecBole reads them. Prints a line of JSON: the seconds of each epoch after
the first, and RecBole's version.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from typing import Any

SETTINGS: dict[str, Any] = {
    "embedding_size": 64,
    "kg_embedding_size": 64,
    "train_batch_size": 4096,
    "learning_rate": 0.001,
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "HEAD_ENTITY_ID_FIELD": "head_id",
    "TAIL_ENTITY_ID_FIELD": "tail_id",
    "RELATION_ID_FIELD": "relation_id",
    "ENTITY_ID_FIELD": "entity_id",
    "load_col": {
        "inter": ["user_id", "item_id"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
    },
    "eval_args": {"split": {"RS": [0.98, 0.01, 0.01]}, "group_by": None, "order": "RO", "mode": "full"},
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


def main() -> None:
    folder, model_name, epochs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.chdir(folder)  # it writes logs where it stands
    import torch
    from recbole import __version__
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(threads)
    sys.argv = sys.argv[:1]  # it reads the command line
    settings = SETTINGS | {"data_path": folder}
    config = Config(model=model_name, dataset="data", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    times = []
    for epoch in range(epochs + 1):
        began = time.perf_counter()
        trainer._train_epoch(train, epoch)
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": times[1:], "version": __version__}))


if __name__ == "__main__":
    main()
