# The command hakg for CPUs. From the repository's folder:
#
#   docker build -f docker/cpu.Dockerfile -t hakg .                         any command
#   docker build -f docker/cpu.Dockerfile -t hakg-serve --target serve .    hakg serve /run, with a health check
#
# docs/install.md has both in use, and how to get PyTorch's smaller wheels, without CUDA.

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=plot,serve,index
# pip reads this name: an index of packages beside its own one.
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /source
RUN python -m venv /app
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY hakg_dgl hakg_dgl
COPY cli cli
COPY datasets datasets
RUN /app/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm AS command
# DGL needs libgomp, and its package has no version of its own worth a pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hakg \
    && mkdir /data \
    && chown hakg:hakg /data
COPY --from=build /app /app
# What libraries keep between calls goes where any user may write, so that `docker run --user` works.
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
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
