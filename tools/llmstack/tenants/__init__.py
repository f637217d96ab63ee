"""Tenants as operators see and change them: limits, API keys and what is used of them."""
