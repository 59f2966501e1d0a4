"""Releases: registry, TUF repository, bundle server."""
