# shellcheck shell=bash
# Functions of all client scripts. The runner sets:
#   REGISTRY  host:port of the registry under test, plain HTTP
#   REGISTRY_LOG  its log; unset if the runner did not start it
#   CONTENT   the folder that tests/e2e/content filled
#   WORK      an empty folder for this client, removed afterwards
#   RESULT    file that takes the client's version and what it did
#   KEPT      file of "repository reference digest" lines, all checked again
#             after the registry was killed and restarted
set -euEo pipefail
shopt -s inherit_errexit
. "${BASH_SOURCE[0]%/*}/../ports.sh"
: "${REGISTRY:?}" "${CONTENT:?}" "${WORK:?}" "${RESULT:?}" "${KEPT:?}"
trap 'echo "failed at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR

OCI_INDEX=application/vnd.oci.image.index.v1+json
OCI_IMAGE=application/vnd.oci.image.manifest.v1+json
DOCKER_LIST=application/vnd.docker.distribution.manifest.list.v2+json
DOCKER_IMAGE=application/vnd.docker.distribution.manifest.v2+json
ANY_MANIFEST="Accept: $OCI_INDEX, $OCI_IMAGE, $DOCKER_LIST, $DOCKER_IMAGE"

die() {
  echo "$*" >&2
  exit 1
}

# Ends the script as skipped (77) unless all these programs are installed.
needs() {
  local program
  for program; do
    command -v "$program" >/dev/null || exit 77
  done
}

# same WHAT ACTUAL EXPECTED
same() {
  [ "$2" = "$3" ] || die "$1: got '$2', expected '$3'"
}

# contains WHAT TEXT LINE: one of the lines of the text is exactly LINE.
contains() {
  grep -Fxq -- "$3" <<<"$2" || die "$1: no line '$3' in: $2"
}

# absent WHAT COMMAND...: the command must fail.
absent() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then die "$what is still there"; fi
}

# report VERSION TEXT
report() {
  printf '%s: %s\n' "$1" "$2" >"$RESULT"
}

# The digest of the one manifest tagged in an OCI layout.
layout_digest() {
  jq -r '.manifests[0].digest' "$1/index.json"
}

# The digest the registry says a reference has.
registry_digest() {
  curl -fsS -I -H "$ANY_MANIFEST" "http://$REGISTRY/v2/$1/manifests/$2" |
    tr -d '\r' | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p'
}

# status PATH: the status code of a HEAD request.
status() {
  curl -sS -o /dev/null -w '%{http_code}' -I -H "$ANY_MANIFEST" "http://$REGISTRY$1"
}

hash_of() {
  echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"
}

# verify REPOSITORY DIGEST: fetches a manifest and everything that it references, and hashes
# every byte, once for each repository.
declare -A verified
verify() {
  local file digest
  file=$(mktemp -p "$WORK")
  curl -fsS -H "$ANY_MANIFEST" -o "$file" "http://$REGISTRY/v2/$1/manifests/$2"
  same "manifest body of $1" "$(hash_of "$file")" "$2"
  for digest in $(jq -r '.manifests // [] | .[].digest' "$file"); do
    verify "$1" "$digest"
  done
  for digest in $(jq -r '[.config // empty, (.layers // .blobs // [])[]] | unique_by(.digest) | .[].digest' "$file"); do
    [ -z "${verified[$1@$digest]:-}" ] || continue
    verified[$1@$digest]=yes
    same "blob of $1" "sha256:$(curl -fsS "http://$REGISTRY/v2/$1/blobs/$digest" | sha256sum | cut -d' ' -f1)" "$digest"
  done
  rm "$file"
}

# stored REPOSITORY REFERENCE DIGEST: the registry has this content under this
# reference, complete; and must still have it after the restart.
stored() {
  same "digest of $1:$2 in the registry" "$(registry_digest "$1" "$2")" "$3"
  verify "$1" "$3"
  echo "$1 $2 $3" >>"$KEPT"
}

# pulled_layout DIR DIGEST: an OCI layout a client pulled is what was pushed.
pulled_layout() {
  local file
  same "digest of the pulled layout" "$(layout_digest "$1")" "$2"
  for file in "$1"/blobs/sha256/*; do
    same "pulled blob" "$(hash_of "$file")" "sha256:${file##*/}"
  done
}

# Prints a storage driver for a client's own temporary store: overlay where the
# kernel and the folder allow it, else vfs.
storage_driver() {
  local d=$WORK/overlay-probe
  mkdir -p "$d"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$d/lower,upperdir=$d/upper,workdir=$d/work" "$d/merged" 2>/dev/null; then
    umount "$d/merged"
    echo overlay
  else
    echo vfs
  fi
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "not within the time: $*"
    sleep 0.2
  done
}

# stop PID: terminates a process that was started here, by SIGKILL after 20 s.
stop() {
  local n
  kill -TERM "$1" 2>/dev/null || return 0
  for ((n = 0; n < 200; n++)); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}

# push_blob REPOSITORY FILE: with curl, in one request, to $ORIGIN if that is set.
push_blob() {
  curl -fsS -o /dev/null -X POST -H 'Content-Type: application/octet-stream' --data-binary "@$2" \
    "${ORIGIN:-http://$REGISTRY}/v2/$1/blobs/uploads/?digest=$(hash_of "$2")"
}

# push_small REPOSITORY TAG [FOLDER]: pushes an image of one layer with this folder's files
# (else a note) with curl, and prints its digest.
push_small() {
  local repository=$1 tag=$2 dir
  dir=$(mktemp -d -p "$WORK")
  mkdir "$dir/made"
  echo "made for the end-to-end tests" >"$dir/made/note"
  tar -C "${3:-$dir/made}" -cf "$dir/layer.tar" .
  jq -nc --arg diff "$(hash_of "$dir/layer.tar")" \
    '{architecture: "amd64", os: "linux", config: {Cmd: ["/none"]}, rootfs: {type: "layers", diff_ids: [$diff]},
      created: "1970-01-01T00:00:00Z", history: [{created: "1970-01-01T00:00:00Z", created_by: "tests/e2e"}]}' >"$dir/config"
  push_blob "$repository" "$dir/layer.tar"
  push_blob "$repository" "$dir/config"
  jq -nc --arg type "$OCI_IMAGE" --arg config "$(hash_of "$dir/config")" --arg layer "$(hash_of "$dir/layer.tar")" \
    --argjson config_size "$(stat -c %s "$dir/config")" --argjson layer_size "$(stat -c %s "$dir/layer.tar")" \
    '{schemaVersion: 2, mediaType: $type,
      config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $config_size},
      layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $layer_size}]}' >"$dir/manifest"
  curl -fsS -o /dev/null -X PUT -H "Content-Type: $OCI_IMAGE" --data-binary "@$dir/manifest" \
    "${ORIGIN:-http://$REGISTRY}/v2/$repository/manifests/$tag"
  hash_of "$dir/manifest"
  rm -r "$dir"
}
