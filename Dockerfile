# containers/build.sh builds it with the version, the commit and, without a registry, a base of its own.
# By hand: docker build -t cad .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Empty: `--build-context wheels=FOLDER` puts a folder in its place, and then no package index is asked.
FROM scratch AS wheels

FROM ${BASE} AS build
ARG TORCH_INDEX=""
WORKDIR /opt/cad
COPY . .
RUN --mount=type=bind,from=wheels,target=/wheels sh containers/install.sh

FROM ${BASE}
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=cad \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${COMMIT} \
      org.opencontainers.image.licenses=MIT
COPY --from=build /opt/venv /opt/venv
COPY experiments /opt/cad/experiments
RUN useradd --create-home --uid 1000 --user-group cad
ENV PATH=/opt/venv/bin:$PATH LC_ALL=C.UTF-8
USER 1000:1000
WORKDIR /home/cad
ENTRYPOINT ["cad"]
CMD ["doctor"]
