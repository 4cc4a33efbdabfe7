"""Frames through the model: the session of a model, the schedule, the run, and what a tile comes to."""
