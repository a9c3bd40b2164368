"""Other recommenders on the same data, masks and metrics: popularity, item neighbours, EASE, BPR-MF, LightGCN."""
