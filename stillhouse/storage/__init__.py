"""Bytes on disk or in a bucket: written whole, named by digest."""
