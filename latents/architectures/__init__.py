"""Networks that enlarge raw VAE latents [N, C, h, w] of diffusion models, one family a file; each has `network_for`,
which reads a network's size off a state dict, and says by a `ValueError` what is missing or of another shape."""
