"""A page to play with: a picture and some words in a browser, the answer at once.

Knows HTTP, the page and what is kept for it; must not know algorithms. Needs the extra `app`.
"""
