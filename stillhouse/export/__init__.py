"""Versions and models in other tools' formats. A file without an underscore is a kind."""
