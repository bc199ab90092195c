# One image for every container of a pod: the sidecar, Envoy beside it, and the hooks between them.
#
#   docker build -t tollgate .
#
# Envoy comes from its own image, for the architecture that is built for; both images are Debian.
ARG PYTHON=3.12
ARG ENVOY=v1.40.0

FROM envoyproxy/envoy:${ENVOY} AS envoy

FROM python:${PYTHON}-slim AS build
WORKDIR /source
RUN python -m venv /opt/tollgate
# What changes with every commit comes last, so that the layers before it are kept.
COPY pyproject.toml README.md ./
COPY policies policies
COPY tollgate_client tollgate_client
COPY ext_proc ext_proc
RUN /opt/tollgate/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:${PYTHON}-slim
# The directories are made here for their owner: a volume that is mounted there for the first time takes it over.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 tollgate \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /var/lib/tollgate --shell /usr/sbin/nologin tollgate \
 && install --directory --owner 65532 --group 65532 /run/tollgate /var/lib/tollgate /etc/tollgate
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/tollgate
ENTRYPOINT ["tollgate"]
CMD ["--help"]
