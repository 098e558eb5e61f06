"""Answers with passages of a corpus: the corpus, its evidence, citations, responses, traces."""
