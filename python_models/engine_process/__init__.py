"""The engine as a process of its own: it keeps its weights when a stub or tritonserver dies."""
