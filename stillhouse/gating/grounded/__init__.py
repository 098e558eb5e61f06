"""Answers with a corpus at hand: evidence, citations, traces."""
