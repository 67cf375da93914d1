"""The one loop, its checkpoints, and measurement of a trained network."""
