"""All that knows English: words, sentences, prompts, questions.

`text/language.py` lists what a language has to provide. Another language is another folder with the same names.
"""
