"""Stage 1: a teacher writes sparse signals once. A file here without an underscore is a kind of capture."""
