"""What people meet on ComfyUI's canvas: widgets, and what goes along VIDEO wires.

Its face: `options_of` and the tables of widgets in `widgets.py`, `lazy_video` in `video_wires.py`.
"""
