"""Geometry: where tiles lie, how they are blended, and what is padded. No device, no model.

What others use: `plan.plan_tiles`, `plan.plan_fixed`, `plan.automatic_overlap`, `pad.WrapPadding`, `blend.TileBlender`.
"""
