"""The Poincaré ball: maps, distance, cones, and the frame coordinates of a message. Knows nothing of graphs."""
