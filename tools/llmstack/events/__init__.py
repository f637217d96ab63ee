"""Events on their way from the outbox to their webhooks, in the parent process."""
