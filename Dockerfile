# Darkroom without weights, database and storage; see compose.yaml for those.
# A host with GPUs needs NVIDIA's container toolkit. CUDA comes with torch's wheels.
# Python 3.11.16. A digest is the same image everywhere; docs/how-to/secure-an-installation.md says
# how to take a newer one.
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Triton builds its launchers with a C compiler, at run time: `compile` needs it.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# A volume that is mounted takes its owner from the folder of the image.
RUN useradd --create-home --uid 1000 darkroom \
    && install -d -o darkroom -g darkroom /var/lib/darkroom /opt/darkroom \
        /home/darkroom/.cache /home/darkroom/.cache/huggingface
WORKDIR /opt/darkroom

# Layers that change rarely come first: the packages stay cached when only code has changed.
COPY requirements-image.txt ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement requirements-image.txt
COPY constraints.txt pyproject.toml README.md fal_plain_http.py ./
COPY darkroom/__init__.py darkroom/
COPY serve_app/__init__.py serve_app/
COPY deployments/__init__.py deployments/
COPY weights/__init__.py weights/
# What is missing now: torch, and the packages of CUDA that it asks for by version.
RUN pip install --no-cache-dir --constraint constraints.txt ".[c2pa]"
COPY darkroom darkroom
COPY darkroom_apps darkroom_apps
COPY serve_app serve_app
COPY deployments deployments
COPY weights weights
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# By number: Kubernetes' runAsNonRoot cannot know what a name stands for.
USER 1000:1000
WORKDIR /var/lib/darkroom
ENV DARKROOM_DATA_DIR=/var/lib/darkroom DARKROOM_HOST=0.0.0.0 PYTHONUNBUFFERED=1
# HTTP and TLS
EXPOSE 8000 8443
# Not /readyz: without its database, Darkroom waits for it, and a restart would not help.
HEALTHCHECK --start-period=120s --interval=10s --timeout=10s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
# SIGTERM stops all processes; running requests go back to the queue.
ENTRYPOINT ["darkroom"]
CMD ["serve"]
