"""What stands against compiling a model."""


class TraceError(RuntimeError):
    """The model cannot be traced for the shapes asked for; the cause says why."""


class CompileError(RuntimeError):
    """The model cannot be compiled, or the result is wrong."""
