"""Frames through the model: the session of a model, the schedule, the run, and what a tile comes to.

What others use: `session.Session`, `session_cache.SessionCache`, `run.Pipeline`, `frame_io.FrameSource` and
`FrameSink`."""
