"""A model: loading it, what it is, our own copy of it, and how that is computed best.

What others use: `loader.load_model`, `info.model_info`, `runner.ModelRunner`, `execution.Executor`,
`study.Study`, `trial.trial`, `throughput.Throughput`, and what is known of models without a look: `known_fields`,
`known_kernels`, `known_memory`, `known_throughput`."""
