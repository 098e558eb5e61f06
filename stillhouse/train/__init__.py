"""Stage 3: signals become a candidate. A file here without an underscore is a kind of student."""
