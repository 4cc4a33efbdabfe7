"""A model: loading it, what it is, our own copy of it, and how that is computed best."""
