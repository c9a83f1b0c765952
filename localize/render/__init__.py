"""Pictures of results. Knows neither models nor files, nor how a result was made."""

from localize.render.overlays import LEGEND_ENTRIES, boxes_overlay, in_words, overlay

__all__ = ["LEGEND_ENTRIES", "boxes_overlay", "in_words", "overlay"]
