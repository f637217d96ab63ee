"""Builds the release in artifacts/: schemas, model card, manifest, and the eval slices for it."""
