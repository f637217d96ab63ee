"""Builds and checks the container image through Docker's API."""
