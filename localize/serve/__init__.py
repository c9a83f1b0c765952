"""HTTP in front of the two verbs: annotation protocols and a plain `POST /locate`.

Knows HTTP, the protocols of annotation tools and how answers are kept; must not know algorithms.
Needs the extra `app`.
"""
