"""What keeps a webhook from being used."""

from __future__ import annotations

from llmstack.server.error import ServerStartError


class WebhookConfigurationError(ServerStartError):
    """A URL or a secret can't be used; the text says which and why, and never quotes a secret."""
