# The image of jetsync: docs/kubernetes.md tells how to use it, `make image` builds it with docker or buildah.
#
# Both stages have the same base, so that the interpreter is the same file in both. A slim one and not a distroless one, since commands
# of subscriptions (`before`, `after`) want a shell. Another base needs python3 >= 3.11 with pip, and wheels for its C library
# (they are locked for glibc and musl). For builds that have to be the same tomorrow give a digest:
# --build-arg BASE_IMAGE=python:3.13-slim-trixie@sha256:... . A mirror of PyPI: --build-arg PIP_INDEX_URL=...; its certificate belongs
# into the base image. There is no RUN --mount and no heredoc: every builder takes it.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# strip: compiled wheels carry 27 MB of symbols and debug information, more than a third of what would be added to the base.
# hadolint ignore=DL3008,DL3018
RUN command -v strip || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends binutils; } \
 || apk add --no-cache binutils

# The tools that make wheels, in a place of their own; nothing of it is in the image.
COPY requirements-build.lock ./
RUN python3 -m venv --without-pip tools \
 && python3 -m pip --python tools/bin/python install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement requirements-build.lock

# What jetsync needs, every file by its digest. Whatever has no wheel is built here, by the tools above.
COPY requirements.lock ./
RUN python3 -m pip --python tools/bin/python wheel --quiet --no-deps --require-hashes --no-build-isolation \
    --wheel-dir wheels --requirement requirements.lock \
 && python3 -m venv --without-pip /opt/jetsync \
 && rm /opt/jetsync/bin/[Aa]ctivate* \
 && python3 -m pip --python /opt/jetsync/bin/python install --quiet --no-deps --no-index wheels/*.whl \
 && find /opt/jetsync -name "*.so" -exec strip --strip-unneeded {} + \
 && /opt/jetsync/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/jetsync/lib

# jetsync itself, apart: /build/own is what it adds to /opt/jetsync.
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY scripts/stdlib_bytecode.py scripts/
RUN python3 -m pip --python tools/bin/python wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir own-wheel . \
 && python3 -m pip --python /opt/jetsync/bin/python install --quiet --no-deps --no-index --prefix /build/own own-wheel/*.whl \
 && /opt/jetsync/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /build/own -p /opt/jetsync own/lib \
 && PYTHONPATH="$(echo /build/own/lib/python3.*/site-packages)" \
    /opt/jetsync/bin/python scripts/stdlib_bytecode.py /build/bytecode

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z

# What the start needs of the standard library, compiled: the base has no bytecode, and nobody could write it later.
COPY --from=build /build/bytecode/ /
# The dependencies: changes with the lock only.
COPY --from=build /opt/jetsync /opt/jetsync
# jetsync itself: the only layer that an update of jetsync alone brings anew.
COPY --from=build /build/own /opt/jetsync
# The default of `state_dir`, for containers without a volume there, whoever runs them; a new volume of Docker takes the mode over.
RUN install -d -m 1777 /var/lib/jetsync

ENV PATH=/opt/jetsync/bin:$PATH PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="jetsync" \
      org.opencontainers.image.description="Keeps local directories and NATS JetStream Object Store buckets equal, by digest." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# By number, so that `runAsNonRoot` can tell; any other works as well.
USER 65532:65532
EXPOSE 9477
# /livez: the event loop, never the server. It costs a start of the interpreter, hence a minute. Kubernetes has probes of its own.
HEALTHCHECK --interval=60s --timeout=10s --start-period=10s CMD ["jetsync", "healthcheck"]
# As process 1 jetsync puts a small init in front of itself, which passes signals on and reaps (agent/pid1.py).
ENTRYPOINT ["jetsync"]
CMD ["run"]
