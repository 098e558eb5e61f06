"""Weights on this machine: what can be fetched from a package index, and the folders where models lie.

Nothing here imports torch or transformers, so a fetch shows its progress at once.
"""
