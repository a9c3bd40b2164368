"""The models, one file each behind one contract, :mod:`~hakg_dgl.models.recommender`; the registry finds them."""
