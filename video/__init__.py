"""Films: read frame by frame, upscaled, and written with all that is copied. Its face: `upscale_film` in
`pipeline.py`, `VideoOptions` in `options.py`, `plan_films` in `films.py`."""
