"""Words on the command line -> the Python API, and clear errors.

Knows options and exit codes; must not know algorithms. Imports what is heavy only once the words on
the command line make sense. `program` has the parser, and each command a file of its own beside
what they share.
"""

from localize.cli.program import main

__all__ = ["main"]
