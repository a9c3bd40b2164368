"""``python -m hakg_dgl.cli``, for where the command ``hakg`` is not on the path."""

from . import main

if __name__ == "__main__":
    main(prog_name="hakg")
