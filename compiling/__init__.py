"""Compiling a model in a process of its own: what, when, how, and what went wrong.

What others use: `job.CompileJob`, `request.Request`, `aoti.load_package`, `policy`,
`errors.explain`."""
