#!/bin/sh
# Builds the MinIO server that the tests marked `services` run against, from its Go module.
#
# Usage: scripts/build_minio.sh [FOLDER]. The binary goes to FOLDER, else to $MINIO_DIR, else to
# .cache/minio; the tests look for it in $MINIO_DIR, .cache/minio and PATH. Needs Go and a Go
# module proxy; no root. Does nothing when this version is already there.
set -eu
cd "$(dirname "$0")/.."

# A revision of the server's repository: its release tags are no Go module versions, and module
# proxies need not serve them. Go checks its checksum.
version=v0.0.0-20250907161309-07c3a429bfed  # RELEASE.2025-09-07T16-13-09Z
folder=${1:-${MINIO_DIR:-.cache/minio}}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
printf '*\n' >"$folder/.gitignore"
if [ "$(cat "$folder/version" 2>/dev/null)" = "$version" ] && [ -x "$folder/minio" ]; then
    echo "$folder/minio"
    exit 0
fi
command -v go >/dev/null || fail "Go is needed to build MinIO: https://go.dev/dl/"

echo "Building MinIO $version; about six minutes on two cores" >&2
GOBIN="$folder" CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/minio/minio@$version"
"$folder/minio" --version >/dev/null || fail "the MinIO that was built does not start"
printf '%s\n' "$version" >"$folder/version"
echo "$folder/minio"
