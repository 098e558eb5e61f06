"""Stage 3: signals become a candidate. A file or folder here is a kind of student."""
