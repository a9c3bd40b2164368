"""Readers of the accepted layouts, one file a format: raw files -> :class:`~hakg_dgl.data.readers.raw.RawData`."""
