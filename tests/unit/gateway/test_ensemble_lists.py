"""The guard's lists of what a request may name, compared with the ensemble and the server's command line."""

from __future__ import annotations

import re
from pathlib import Path

from llm_policy.rules.headers import CANARY_TOKEN
from llm_policy.triton.tensors import ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS, POSTPROCESS_OUTPUTS, STREAM_OUTPUTS
from llmstack.gateway import configuration
from llmstack.gateway.configuration import OPENAI_POST_PATHS, POST_PATHS
from llmstack.openai.api_document import make_document
from llmstack.server.command import FORWARDED_HEADERS, STREAM_MODEL

TEXT = Path(configuration.__file__).with_name("ensemble.lua").read_text(encoding="utf-8")


def names(table: str) -> list[str]:
    """The names in a set of the Lua file."""
    (members,) = re.findall(rf"^Ensemble\.{table} = set\(([^)]*)\)", TEXT, re.MULTILINE)
    return re.findall(r'"([^"]+)"', members)


def test_the_inputs_are_the_ensembles_with_their_types():
    (table,) = re.findall(r"^Ensemble\.INPUTS = \{\n(.*?)^\}", TEXT, re.M | re.S)
    types = dict(re.findall(r'^  (\w+) = "(\w+)",$', table, re.M))
    expected = {spec.name: spec.data_type.removeprefix("TYPE_").replace("STRING", "BYTES") for spec in ENSEMBLE_INPUTS}
    assert types == expected


def test_the_settled_outputs_are_those_of_postprocess():
    assert sorted(names("SETTLED_OUTPUTS")) == sorted(spec.name for spec in POSTPROCESS_OUTPUTS)


def test_the_engines_outputs_are_the_others_of_the_ensemble():
    settled = {spec.name for spec in POSTPROCESS_OUTPUTS}
    assert sorted(names("ENGINE_OUTPUTS")) == sorted(spec.name for spec in ENSEMBLE_OUTPUTS if spec.name not in settled)


def test_the_streams_own_outputs_are_those_that_the_ensemble_does_not_have():
    assert sorted(names("STREAM_OUTPUTS")) == sorted(
        spec.name for spec in STREAM_OUTPUTS if spec not in ENSEMBLE_OUTPUTS
    )


def test_the_guard_reads_the_body_of_every_path_that_the_configuration_allows():
    (table,) = re.findall(r"^local Ensemble = \{(.*)\}$", TEXT, re.MULTILINE)
    models = dict(re.findall(r'(\w+) = "(\w+)"', table))
    assert models == {"MODEL": "ensemble", "STREAM_MODEL": STREAM_MODEL}
    calls = re.findall(r"^  \[Ensemble\.(\w+)\] = set\(([^)]*)\),$", TEXT, re.MULTILINE)
    paths = [f"/v2/models/{models[model]}/{call}" for model, line in calls for call in re.findall(r"\w+", line)]
    assert sorted(paths) == sorted(POST_PATHS)
    assert sorted(names("OPENAI_PATHS")) == sorted(OPENAI_POST_PATHS)


def test_every_path_with_a_body_of_the_openai_api_is_one_of_its_document():
    document = make_document()["paths"]
    assert {path for path, calls in document.items() if "post" in calls} == set(OPENAI_POST_PATHS)


def test_the_headers_are_those_that_the_server_forwards_but_not_the_canarys_token():
    expected = {name.lower() for name in FORWARDED_HEADERS if name != CANARY_TOKEN}
    assert set(names("HEADERS")) == expected


def test_no_list_of_headers_has_one_of_tritons_own():
    for name in (*names("HEADERS"), *names("HTTP_HEADERS"), *names("GRPC_HEADERS")):
        assert not name.startswith(("triton", "accept-encoding", "endpoint-load", "content-encoding"))
