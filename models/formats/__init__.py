"""Model files as bytes: what is in one, read without running any of it, and no more of it than is asked for.

What others use: `..weights.read_weights`, which knows a file by its beginning. Nothing here knows an architecture.
"""
