"""Update functions by edge type and who runs them, dropout, losses, and negatives."""
