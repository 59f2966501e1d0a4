"""Flower apps, engines, model families, int8 export. Imports covey, edge.scoring and the file readers of edge.sources."""
