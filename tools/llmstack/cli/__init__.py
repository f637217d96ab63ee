"""The command line, and the only package with Typer: each command parses its options, calls a capability and prints."""
