"""What outlives the process: locks, whole files, compiled models, profiles, and whose they are.

What others use: `artifacts.ArtifactStore`, `profiles.ModelProfile`, `fingerprint.content_of`. Child processes import it
without torch, so nothing is imported here.
"""
