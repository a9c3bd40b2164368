# The command hakg for NVIDIA GPUs. From the repository's folder:
#
#   docker build -f docker/cuda.Dockerfile -t hakg-cuda .
#   docker build -f docker/cuda.Dockerfile -t hakg-cuda-serve --target serve .
#   docker run --rm --gpus all hakg-cuda doctor
#
# PyTorch's wheels for Linux bring the CUDA libraries along; the host has the driver and NVIDIA's container toolkit.

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=plot,serve,index,gpu
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /source
RUN python -m venv /app
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY hakg_dgl hakg_dgl
COPY cli cli
COPY datasets datasets
RUN /app/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm AS command
# Triton compiles a launcher for each kernel with the system's C compiler; Python's headers are in the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hakg \
    && mkdir /data \
    && chown hakg:hakg /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /data
ENTRYPOINT ["hakg"]
CMD ["--help"]

FROM command AS serve
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["serve", "/run", "--host", "0.0.0.0"]

FROM command
