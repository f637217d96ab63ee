"""The operator's command line: serve, prove, release and roll back."""
