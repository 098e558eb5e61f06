"""Signals as batches that a student trains on."""
