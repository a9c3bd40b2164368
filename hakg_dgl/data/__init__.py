"""Raw files -> :class:`~hakg_dgl.data.dataset.Dataset`: readers, id maps, splits, saved data sets."""
