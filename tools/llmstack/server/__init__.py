"""One `tritonserver` process: its binary, command line, ports, log and termination."""
