"""Geometry: where tiles lie, how they are blended, and what is padded. No device, no model."""
