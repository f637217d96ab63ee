"""The environment variables that are no command's option."""
