"""Checks what pages cost: the processor time of the registry for each, and the part of the binary that is the UI.

    cost.py BASE PROCESS BINARY

BASE is a registry on a folder that seed.py has filled, PROCESS its process id. Prints a table, and exits with 1 if a
page takes more than 50 ms of processor time, or the UI more than 3 MB of the binary.
"""

import glob
import re
import subprocess
import sys
import urllib.request

PAGE_MS_MAX = 50
UI_BYTES_MAX = 3_000_000
REQUESTS = 30
# Functions and constants of the UI, and of the library that makes its HTML.
UI_SYMBOL = re.compile(r"jreg_ui|jreg_http::ui|maud")


def processor_seconds(process):
    """The time on a processor of all threads of a process."""
    total = 0
    for path in glob.glob(f"/proc/{process}/task/*/schedstat"):
        try:
            with open(path, encoding="ascii") as file:
                total += int(file.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def get(url):
    with urllib.request.urlopen(url) as response:
        return response.read().decode()


def pages_of(base):
    digest = get(base + "/ui/library/nginx:1.27.2").split("referrers/")[1].split("?")[0].split('"')[0]
    return ["/ui/", "/ui/library/nginx", "/ui/library/nginx?order=version", "/ui/library/nginx:1.27.2",
            f"/ui/library/nginx@{digest}", "/ui/library/nginx:1.27.2-alpine", "/ui/library/nginx/-/manifests",
            "/ui/library/nginx/-/history/latest", f"/ui/library/nginx/-/referrers/{digest}",
            f"/ui/library/nginx/-/kept/{digest}", "/ui/library/nginx/-/lifecycle", "/ui/library/nginx/-/usage?count=yes",
            "/ui/team/api/-/deleted", "/ui/charts/shop:2.4.1"]


def ui_bytes(binary):
    """Bytes of the symbols of the UI; `None`: the binary has no symbols, or there is no nm."""
    try:
        symbols = subprocess.run(["nm", "--print-size", "--demangle", binary], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    lines = [line.split(None, 3) for line in symbols.stdout.splitlines()]
    sizes = [int(line[1], 16) for line in lines if len(line) == 4 and UI_SYMBOL.search(line[3])]
    return sum(sizes) if sizes else None


def main():
    base, process, binary = sys.argv[1:]
    base = base.rstrip("/")
    failed = 0
    for page in pages_of(base):
        get(base + page)
        before = processor_seconds(process)
        for _ in range(REQUESTS):
            get(base + page)
        ms = (processor_seconds(process) - before) * 1000 / REQUESTS
        failed += ms > PAGE_MS_MAX
        print(f"{'ok    ' if ms <= PAGE_MS_MAX else 'FAILED'}  {ms:6.2f} ms  {re.sub(':[0-9a-f]{64}', ':…', page)}")
    size = ui_bytes(binary)
    if size is None:
        print("        the binary has no symbols: the part of the UI is not known")
    else:
        failed += size > UI_BYTES_MAX
        print(f"{'ok    ' if size <= UI_BYTES_MAX else 'FAILED'}  {size / 1e6:.2f} MB of the binary are the UI")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
