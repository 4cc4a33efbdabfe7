"""What `encode.py` and `latent.py` are made of: training latent upscalers."""
