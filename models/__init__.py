"""A model: loading it, what it is, our own copy of it, and how that is computed best.

What others use: `loader.load_model`, `info.model_info`, `runner.ModelRunner`, `execution.Executor`,
`precision.PrecisionChooser`, `autotune.fastest`, `throughput.Throughput`, `receptive_field.with_receptive_field`."""
