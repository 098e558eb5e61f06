"""How each layout that people write in becomes pieces of a memory: outlines, tables, chats, e-mails, HTML, data.

`text/statements.py` is the one entry; it makes statements of the pieces.
"""
