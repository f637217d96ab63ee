"""Delivery of events from the outbox to their webhooks, in the parent process."""
