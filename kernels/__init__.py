"""Faster ways to compute layers of a model, and the means to measure and compare them."""
