"""Faster ways to compute layers of a model, and the means to measure and compare them.

What others use: `rewrite.rewrite`, `attention_fusion.FusedAttention`, `winograd` and `window_attention` (`prepare`,
`suits`), `numerics.compare`, `timing`."""
