#!/usr/bin/env bash
# The artifacts of deploy/: a static binary, the Debian package and the systemd unit. The image is tested by
# tests/e2e/clients/image.
#
#   tests/packages.sh [BINARY]    a static binary; without one, deploy/static builds it
set -euo pipefail
shopt -s inherit_errexit
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
work=$(mktemp -d "${TMPDIR:-/tmp}/jreg-packages.XXXXXX")
trap 'rm -rf "$work"' EXIT
binary=${1:-$(deploy/static)}

file "$binary" | grep -Eq 'static(ally|-pie) linked' || { file "$binary"; exit 1; }
env -i "$binary" version

architecture=$(dpkg --print-architecture)
deploy/deb "$binary" "$architecture" "$work/jreg.deb" >/dev/null
deploy/deb "$binary" "$architecture" "$work/again.deb" >/dev/null
cmp "$work/jreg.deb" "$work/again.deb"
dpkg-deb --info "$work/jreg.deb" | sed -n 's/^ \(Package\|Version\|Installed-Size\)/\1/p'
dpkg-deb --extract "$work/jreg.deb" "$work/root"
for path in usr/bin/jreg etc/jreg/jreg.toml usr/lib/systemd/system/jreg.service usr/share/man/man1/jreg-serve.1.gz \
  usr/share/bash-completion/completions/jreg; do
  [ -e "$work/root/$path" ] || { echo "the package lacks $path"; exit 1; }
done
dpkg-deb --info "$work/jreg.deb" conffiles | grep -Fxq /etc/jreg/jreg.toml
env -i "$work/root/usr/bin/jreg" config check --config "$work/root/etc/jreg/jreg.toml"
# Installed and purged in a root of its own, whose database is empty: nothing of this machine changes.
mkdir -p "$work/machine/var/lib/dpkg"/{info,updates}
touch "$work/machine/var/lib/dpkg/status" "$work/machine/var/lib/dpkg/available"
package() { dpkg --root="$work/machine" --force-not-root --force-depends --force-script-chrootless --log="$work/dpkg.log" "$@" >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; return 1; }; }
package --install "$work/jreg.deb"
"$work/machine/usr/bin/jreg" version >/dev/null
echo '# changed' >>"$work/machine/etc/jreg/jreg.toml"
package --remove jreg
grep -q '# changed' "$work/machine/etc/jreg/jreg.toml" || { echo "a removal deletes the configuration"; exit 1; }
package --install "$work/jreg.deb"
grep -q '# changed' "$work/machine/etc/jreg/jreg.toml" || { echo "an installation replaces the configuration"; exit 1; }
package --purge jreg
for path in etc/jreg usr/bin/jreg usr/lib/systemd/system/jreg.service; do
  [ ! -e "$work/machine/$path" ] || { echo "a purge leaves $path"; exit 1; }
done
echo "installed, removed, installed again and purged"
bash -n "$work/root/usr/share/bash-completion/completions/jreg"
! command -v man >/dev/null || for page in "$work"/root/usr/share/man/man1/*.gz; do
  man --warnings=w -l "$page" 2>&1 >/dev/null | grep . && { echo "$page has errors"; exit 1; }
done

if command -v systemd-analyze >/dev/null; then
  # Verified as installed: the commands exist in the root.
  mkdir -p "$work/unit"
  sed "s|/usr/bin/jreg|$work/root/usr/bin/jreg|; /^Documentation=/d" deploy/systemd/jreg.service >"$work/unit/jreg.service"
  systemd-analyze verify "$work/unit/jreg.service"
  # 0 is best, 10 worst.
  systemd-analyze security --offline=true --threshold=20 "$work/unit/jreg.service" | tail -n 1
fi

# What systemd waits for: READY=1 at the socket, after it listens.
python3 - "$binary" "$work" <<'PYTHON'
import os, socket, subprocess, sys
binary, work = sys.argv[1:]
path = os.path.join(work, "notify")
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(path)
manager.settimeout(20)
server = subprocess.Popen([binary, "serve", "--listen", "127.0.0.1:0", "--storage", os.path.join(work, "data")],
                          env={"NOTIFY_SOCKET": path}, stderr=subprocess.DEVNULL)
try:
    assert manager.recv(100) == b"READY=1"
    server.terminate()
    assert manager.recv(100) == b"STOPPING=1"
    assert server.wait(20) == 0
finally:
    server.kill()
print("systemd is told: READY=1, STOPPING=1")
PYTHON
