# syntax=docker/dockerfile:1
# The image of every node of a cluster: Python, the packages of constraints.txt (PyTorch brings CUDA), and this project.
#   docker build -t REGISTRY/unfreeze:0.2.0 . && docker push REGISTRY/unfreeze:0.2.0
# Python's minor version must be the one you submit from: --build-arg PYTHON=3.12
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS packages
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH UV_LINK_MODE=copy
# Not pinned: any uv reads this file the same way.
# hadolint ignore=DL3013
RUN python -m venv "$VIRTUAL_ENV" && pip install --no-cache-dir uv
WORKDIR /opt/unfreeze
# Only these two files: a change of the code leaves the 6 GB of packages in the layer cache.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --compile-bytecode --constraint constraints.txt --requirement pyproject.toml --extra cloud --extra serve

FROM python:${PYTHON}-slim-bookworm
# rsync: the Ray cluster launcher copies the token with it. wget: KubeRay asks with it whether a node is well.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends rsync wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --shell /bin/bash unfreeze \
    && install --directory --owner=unfreeze --mode=0700 /home/unfreeze/.ray \
    && install --directory --owner=unfreeze /opt/unfreeze /var/cache/unfreeze
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv PYTHONUNBUFFERED=1 \
    UNFREEZE_CACHE=/var/cache/unfreeze RAY_USAGE_STATS_ENABLED=0
WORKDIR /opt/unfreeze
COPY --chown=unfreeze:unfreeze . .
# The workers' `import trainables` must find the project wherever a job starts.
RUN echo /opt/unfreeze > "$(python -c 'import site; print(site.getsitepackages()[0])')/unfreeze.pth"
USER 1000:1000
CMD ["python", "tune.py", "--help"]
