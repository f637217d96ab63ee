"""The portable `tensorrt_llm` model: runs the engine that the configuration names."""

import json


class TritonPythonModel:
    """The class name that Triton requires."""

    def initialize(self, args):
        """Start the engine; only the named one is imported."""
        engine = json.loads(args["model_config"])["parameters"]["engine"]["string_value"]
        if engine == "echo":
            from portable_engine.echo import EchoModel as Engine
        else:
            from portable_engine.triton_model import PortableEngineModel as Engine
        self._engine = Engine()
        self._engine.initialize(args)
        self.execute = self._engine.execute

    def finalize(self):
        """Stop the engine."""
        self._engine.finalize()
