"""Files that nobody wrote, for every reader of the pack: `make fuzz`. Atheris grows them from seeds drawn by code."""
