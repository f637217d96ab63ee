"""What the parent process does for the server that it runs: proves it, restarts it, drains it and says how it is."""
