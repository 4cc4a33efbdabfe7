"""Many workers on one machine or several, by Ray, for folders of pictures that one process would take days for.

What others use: `farm.Farm`, `cluster.FarmOptions`, `manifest.open_manifest`, `manifest.read_manifest`. Nothing here
knows what a unit of work is made of: workers are given a function that does it.
"""
