"""The portable `tensorrt_llm` model: the engine that the configuration names."""

import json


class TritonPythonModel:
    """Triton looks for a class of this name."""

    def initialize(self, args):
        """Start the engine; only the one that is named is imported."""
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
