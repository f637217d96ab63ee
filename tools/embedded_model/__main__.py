"""`python -m embedded_model`."""

from embedded_model.cli.app import app

if __name__ == "__main__":
    app()
