"""The gateway: HAProxy in front of one or more servers. It exposes the ensemble and no other model or API."""
