"""The vocabulary of the pack: options, errors, reports, the host's protocol. It imports nothing of ours.

What others use: all of it, by module: `options`, `errors`, `report`, `context`, `model_info`, `upstream`.
"""
