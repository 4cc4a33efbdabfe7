"""Compiling a model in a process of its own: what, when, how, and what went wrong."""
