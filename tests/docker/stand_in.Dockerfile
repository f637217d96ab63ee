# A stand-in for NVIDIA's image where that can't be pulled: Debian with torch, transformers and numpy as the image's own
# packages, and the server from PyPI in the layout of /opt/tritonserver. The version of transformers is the one that
# TensorRT-LLM 1.0 pins, the oldest of the supported tags.
ARG BASE=llmstack-debian
FROM ${BASE}
COPY certs /etc/ssl/certs
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=180
COPY wheels /wheels
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED \
 && python3 -m pip install -q --no-deps /wheels/torch-*.whl \
 && python3 -m pip install -q numpy==1.26.4 transformers==4.53.1 safetensors==0.8.0 setuptools jinja2 sympy networkx fsspec filelock typing_extensions mpmath wheel
RUN python3 -m pip install -q --no-deps --target /tmp/server nvidia-pytriton==0.7.0 \
 && mkdir -p /opt/tritonserver/lib \
 && cp -r /tmp/server/pytriton/tritonserver/bin /tmp/server/pytriton/tritonserver/backends /opt/tritonserver/ \
 && cp /tmp/server/pytriton/tritonserver/python_backend_stubs/3.11/* /opt/tritonserver/backends/python/ \
 && cp /tmp/server/nvidia_pytriton.libs/* /opt/tritonserver/lib/ \
 && chmod -R a+rX /opt/tritonserver && chmod a+x /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/python/triton_python_backend_stub \
 && rm -rf /tmp/server
ENV LD_LIBRARY_PATH=/opt/tritonserver/lib PATH=/opt/tritonserver/bin:$PATH
# Like the Python of NVIDIA's image with vLLM, this one has numpy 2 and what vLLM brings for the engine process. vLLM
# itself is a package without code: no test in a container starts it.
RUN python3 -m venv --without-pip --system-site-packages /opt/engine \
 && /opt/engine/bin/python -m pip install -q --no-deps --ignore-installed numpy==2.2.6 msgspec==0.21.1 llguidance==1.9.1 xgrammar==0.2.8 apache-tvm-ffi==0.1.15 pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 typing-inspection==0.4.5 typing-extensions==4.16.0 \
 && cd /opt/engine/lib/python3*/site-packages \
 && mkdir vllm vllm-0.24.0.dist-info && touch vllm/__init__.py \
 && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.24.0\n' > vllm-0.24.0.dist-info/METADATA
