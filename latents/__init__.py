"""Latents: enlarged inside the space that diffusion models work in, between two samplers, without decoding them.

Its face: `load_latent_model` in `loader.py`, `upscale_latent` in `upscale.py`.
"""
