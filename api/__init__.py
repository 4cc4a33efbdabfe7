"""The vocabulary of the pack: options, errors, reports, the host's face. It imports nothing of ours."""
