"""A library of pictures, encoded once and asked ever after, that can answer "none".

Knows stores and what is in them; must not know how relevance is drawn, nor the command line.
"""

from __future__ import annotations

from localize.index.duplicates import duplicates
from localize.index.search import Hit, Index
from localize.index.store import Store, StoreError
from localize.index.updates import Progress, settings_of, update

__all__ = ["Hit", "Index", "Progress", "Store", "StoreError", "duplicates", "settings_of", "update"]
