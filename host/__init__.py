"""What surrounds a run: ComfyUI, or nobody. The only package that knows ComfyUI.

Its face: `run_context` in `context.py`, `StandaloneContext` in `standalone.py`, and what ComfyUI has of upscale models
(`upscale_models.py`) and of films (`video_types.py`).
"""
