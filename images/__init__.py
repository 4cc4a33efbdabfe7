"""Pictures: files, channels, alpha, and what is checked before any work.

What others use: `validate.validate_image`, `channels.plan_channels`, `quantiles.quantiles`; the command line `files`,
`jobs`."""
