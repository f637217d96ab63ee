"""A certificate for a gateway on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT_FILE, GATEWAY_FILE = "certificate.pem", "gateway.pem"
"""What clients trust; the same with its key, for the gateway."""
_NAMES = "subjectAltName=DNS:localhost,DNS:gateway,IP:127.0.0.1"


def make_certificate(directory: Path) -> Path:
    """Make a self-signed certificate for localhost, 127.0.0.1 and `gateway` in `directory`; the gateway's file.

    Raises:
        OSError: openssl is missing, or the directory can't be written.
        subprocess.CalledProcessError: openssl failed.
    """
    key, certificate, both = (directory / name for name in ("key.pem", ROOT_FILE, GATEWAY_FILE))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", _NAMES, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both
