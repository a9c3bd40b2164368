"""Update functions by edge type, the HAKG model and its losses."""
