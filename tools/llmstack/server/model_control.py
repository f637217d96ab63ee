"""Loading one model of a running server anew, which replaces its stubs and leaves every other process as it is.

Measured on Triton 2.51, under `--model-control-mode=explicit`: a load request of an unchanged model does nothing, and
one with another configuration starts new stubs, switches to them, and unloads the old ones. So the request has the
model's own configuration with a new parameter. No file changes: the model repository may be read-only. The counts of
the model and of the ensembles around it begin again at 0.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx

from llmstack.server.command import ADMIN_KEY_HEADER

_PARAMETER = "loaded_anew"
_READ_TIMEOUT_S = 10.0


class ModelReloadError(RuntimeError):
    """The model was not loaded anew; the text says why."""


def reload_model(http_url: str, admin_key: str, model: str, timeout_s: float) -> None:
    """Load `model` anew; returns once its new stubs serve. Requests to it wait or fail meanwhile.

    Raises:
        ModelReloadError: Triton can't load it, or does not answer in time.
    """
    with httpx.Client(base_url=http_url, headers={ADMIN_KEY_HEADER: admin_key}, trust_env=False) as client:
        try:
            config = client.get(f"/v2/models/{model}/config", timeout=_READ_TIMEOUT_S).raise_for_status().json()
            load = {"parameters": {"config": json.dumps(_changed(config))}}
            answer = client.post(f"/v2/repository/models/{model}/load", json=load, timeout=timeout_s)
        except httpx.TimeoutException:
            raise ModelReloadError(f"{model} is not loaded after {timeout_s:.0f} s") from None
        except (httpx.HTTPError, ValueError) as error:
            raise ModelReloadError(f"{model} can't be loaded: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise ModelReloadError(f"{model} can't be loaded: {answer.text[:500]}")


def _changed(config: dict[str, Any]) -> dict[str, Any]:
    parameters = {**config.get("parameters", {}), _PARAMETER: {"string_value": str(uuid.uuid4())}}
    return {**config, "parameters": parameters}
