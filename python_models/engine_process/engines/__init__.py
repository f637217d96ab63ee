"""The engines: one module each, behind the interface in `engine_process.engine`."""
