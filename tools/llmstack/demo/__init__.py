"""The demo: sends each kind of request over each protocol, and checks the replies."""
