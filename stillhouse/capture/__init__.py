"""Stage 1: a teacher writes sparse signals once. A file or folder here is a kind of capture."""
