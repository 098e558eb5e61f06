"""What was said and what happened, on disk before it is acknowledged."""
