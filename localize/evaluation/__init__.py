"""Scenes and photos with known boxes, the metrics, and the published recipes for comparison."""
