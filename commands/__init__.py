"""The commands of the command line: their arguments, what each does, and what they say on which stream."""
