"""Pictures of results. Knows neither models nor files, nor how a result was made."""

from localize.render.overlays import boxes_overlay, overlay

__all__ = ["boxes_overlay", "overlay"]
