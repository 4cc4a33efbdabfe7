"""Pictures: files, channels, alpha, and what is checked before any work."""
