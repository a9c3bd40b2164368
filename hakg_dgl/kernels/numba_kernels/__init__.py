"""Functions that Numba compiles for the processor they run on."""
