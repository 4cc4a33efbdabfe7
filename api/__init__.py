"""The vocabulary of the pack: options, errors, reports, what a host must offer. It imports nothing of ours."""
