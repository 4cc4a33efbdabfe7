"""Engines that compile a model's forward: what each lacks, makes and loads.

What others use: `shapes.TileShapes`, `interface.Engine` and `Work`, `offer.usable` and `engine`, `packages.PACKAGES`,
`errors`."""
