"""Stage 7: versions answer."""
