"""Devices: what there is to know of every kind that torch computes on, its memory above all.

Others use `backend_of` and `automatic_kind` (`backends.py`), `vram_of` (`vram.py`) and `PINNED` (`pinned.py`).
"""
