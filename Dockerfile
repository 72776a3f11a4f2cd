# syntax=docker/dockerfile:1
#
# docker build -t brooklet .                        one static program, no shell, not root
# docker build -t brooklet:shell --target shell .   the same on Debian, with a shell and sqlite3
#
# Both have the program as /usr/local/bin/brooklet and as /usr/local/bin/litestream.

FROM rust:1.95-alpine AS build
# SQLite and the cryptography are C. Alpine's toolchain links everything statically.
RUN apk add --no-cache build-base
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin brooklet && \
    etc/image-root target/release/brooklet /image

FROM debian:bookworm-slim AS shell
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates sqlite3 tzdata && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 65532 nonroot && \
    useradd --uid 65532 --gid 65532 --create-home nonroot
COPY --from=build --chown=65532:65532 /image/data /data
COPY --from=build /image/usr /usr
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/brooklet"]

# Certificates and time zones, and nothing else.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build --chown=65532:65532 /image/data /data
COPY --from=build /image/usr /usr
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/brooklet"]
