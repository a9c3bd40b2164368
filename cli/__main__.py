"""``python -m hakg_dgl.cli`` does the same as ``hakg``, also if that command is not on the path."""

from . import main

if __name__ == "__main__":
    main(prog_name="hakg")
