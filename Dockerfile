# The lieaudit service.
#   docker build -t lieaudit .                                     CPU
#   docker build -t lieaudit --build-arg ACCELERATOR=gpu .         CUDA (run with --gpus all; the base must have CUDA and cuDNN)
#   docker build -t lieaudit --build-arg WITH_TORCH=1 .            with the torch path
#   docker run --read-only -v lieaudit-data:/data -p 50151:50151 lieaudit [serve --insecure | ...]
# Beyond loopback the server wants TLS and tokens, or --insecure: docs/operations.md.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG ACCELERATOR=cpu
ARG WITH_TORCH=0
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python3 -m venv /opt/lieaudit
COPY pyproject.toml README.md LICENSE ./
COPY policy policy
COPY proto proto
COPY lieaudit lieaudit
COPY server server
RUN case "$ACCELERATOR" in cpu|gpu) ;; *) echo "ACCELERATOR is cpu or gpu, not $ACCELERATOR" >&2; exit 2;; esac \
 && if [ "$WITH_TORCH" = 1 ] && [ "$ACCELERATOR" = cpu ]; then \
      /opt/lieaudit/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==$TORCH_VERSION"; fi \
 && extras="$ACCELERATOR"; if [ "$WITH_TORCH" = 1 ]; then extras="$extras,torch"; fi \
 && /opt/lieaudit/bin/pip install --no-cache-dir ./policy ./proto ".[$extras]" "./server[$ACCELERATOR]" \
 && /opt/lieaudit/bin/pip uninstall --yes pip setuptools >/dev/null 2>&1; \
    find /opt/lieaudit -depth -type d \( -name tests -o -name test \) -path '*/site-packages/*' \
      ! -path '*/torch/*' -exec rm -rf {} + \
 && /opt/lieaudit/bin/python -c 'import lieaudit, lieaudit_server.server, onnxruntime'

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="lieaudit-server" \
      org.opencontainers.image.description="Audits image models for equivariance, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin lieaudit \
 && install -d -o 10001 -g 10001 -m 0700 /data \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
COPY --from=build /opt/lieaudit /opt/lieaudit
ENV PATH=/opt/lieaudit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LIEAUDIT_DATA_DIR=/data \
    LIEAUDIT_LISTEN=0.0.0.0:50151 \
    LIEAUDIT_METRICS_LISTEN=0.0.0.0:9464
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 50151 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["lieaudit-server", "health"]
ENTRYPOINT ["lieaudit-server"]
CMD ["serve"]
