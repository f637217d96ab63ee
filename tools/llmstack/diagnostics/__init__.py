"""What this machine and its image can and can't do for the stack, said before anything starts."""
