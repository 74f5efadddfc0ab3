# The image needs no privileges, no capabilities, no devices and no network of the host: the kernel tells uevents to
# every network namespace of the initial user namespace, and sysfs shows every container the same bus.
#
#   docker build --tag autoweave/usb-daemon .
#   docker run --read-only --cap-drop all --security-opt no-new-privileges \
#     --volume usbd:/var/lib/autoweave-usb --publish 127.0.0.1:8080:8080 autoweave/usb-daemon

# With gcc, rustup's cargo and, in the final one, glibc and libgcc; the build's glibc must not be the newer one.
ARG BUILD_IMAGE=docker.io/library/rust:1-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package autoweave-usbd \
    && mkdir -p /out/usr/bin /out/var/lib/autoweave-usb \
    && cp target/release/autoweave-usbd /out/usr/bin/

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="AutoWeave USB" \
      org.opencontainers.image.description="Every USB plug and unplug, exactly once, kept" \
      org.opencontainers.image.source="https://github.com/autoweave/autoweave-usb" \
      org.opencontainers.image.licenses="(MIT OR Apache-2.0) AND LGPL-2.1-or-later"
COPY --from=build /out/usr/bin/autoweave-usbd /usr/bin/autoweave-usbd
# A new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/var/lib/autoweave-usb /var/lib/autoweave-usb
VOLUME /var/lib/autoweave-usb
# Loopback would be the container's own: publish the port to as few as need it.
ENV STATE_DIRECTORY=/var/lib/autoweave-usb \
    AUTOWEAVE_USB__MONITORING__BIND=0.0.0.0
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=10s --start-period=5s --retries=3 \
    CMD ["/usr/bin/autoweave-usbd", "health"]
ENTRYPOINT ["/usr/bin/autoweave-usbd"]
CMD ["run"]
