"""What outlives the process: locks, whole files, compiled models, profiles, and whose they are."""
