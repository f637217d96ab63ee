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
