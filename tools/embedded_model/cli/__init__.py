"""The command line: `python -m embedded_model`. The only package here that uses typer and rich."""
