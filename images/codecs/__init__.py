"""The formats of picture files, one in a file; `..files` chooses among them.

Pillow, tifffile and imagecodecs need not be there inside ComfyUI, which hands us tensors: what is not needed to look at
a file is imported where it is used.
"""
