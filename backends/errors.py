"""What stands against compiling a model."""


class TraceError(RuntimeError):
    """The model cannot be traced for the shapes asked for; the cause says why."""


class CompileError(RuntimeError):
    """The model cannot be compiled, or the result is wrong."""


class DeviceFullError(MemoryError):
    """A device that an engine computes on has no room for that: smaller tiles may have it there. Main memory, where
    torch would compute in its place, has not run out."""
