"""The container image: built and examined through Docker's own API."""
