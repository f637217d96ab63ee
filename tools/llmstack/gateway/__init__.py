"""The gateway: HAProxy before one or more servers, and the configuration that leads to the ensemble only."""
