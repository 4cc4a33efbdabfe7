"""Networks that enlarge raw VAE latents [N, C, h, w] of diffusion models, one family a file; each has `from_weights`,
which reads a network's size off a state dict, and says by a `ValueError` what is missing or of another shape. DAT and
plain DRCT are not among them: spandrel loads these."""
