"""Clients that push and pull until a file exists; any response but success is a failure.

    load.py HOST:PORT[,HOST:PORT...] STOP-FILE

With several addresses each request goes to the next of them.
"""
import hashlib
import http.client
import json
import os
import sys
import threading

CLIENTS = 6
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Client(threading.Thread):
    def __init__(self, addresses, stop, number):
        super().__init__()
        self.addresses, self.stop, self.number = addresses, stop, number
        self.requests, self.failures, self.connections = 0, [], {}

    def request(self, method, path, expected, body=None, headers=None):
        address = self.addresses[self.requests % len(self.addresses)]
        connection = self.connections.get(address) or http.client.HTTPConnection(address, timeout=30)
        self.connections[address] = connection
        self.requests += 1
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            del self.connections[address]
            self.failures.append(f"{method} {path}: {error!r}")
            return None, b""
        if response.status != expected:
            self.failures.append(f"{method} {path}: {response.status} {content[:200]!r}")
        if response.getheader("Connection") == "close":
            connection.close()
            del self.connections[address]
        return response, content

    def push_blob(self, repository, content):
        """In two requests and a third that completes it, as docker does."""
        begun, _ = self.request("POST", f"/v2/{repository}/blobs/uploads/", 202)
        place = begun.getheader("Location") if begun else None
        if not place:
            return
        place = place[place.index("/v2/"):]
        sent, _ = self.request("PATCH", place, 202, content, {"Content-Type": "application/octet-stream"})
        place = (sent.getheader("Location") if sent else None) or place
        place = place[place.index("/v2/"):]
        self.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest(content)}", 201)

    def run(self):
        round_ = 0
        while not os.path.exists(self.stop):
            round_ += 1
            repository = f"load/{self.number}"
            layer = os.urandom(200_000)
            config = json.dumps({"round": round_}).encode()
            for content in (layer, config):
                self.push_blob(repository, content)
            descriptor = lambda kind, content: {"mediaType": kind, "digest": digest(content), "size": len(content)}
            manifest = json.dumps({
                "schemaVersion": 2, "mediaType": OCI_IMAGE,
                "config": descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
            }).encode()
            self.request("PUT", f"/v2/{repository}/manifests/latest", 201, manifest, {"Content-Type": OCI_IMAGE})
            _, pulled = self.request("GET", f"/v2/{repository}/manifests/latest", 200, headers={"Accept": OCI_IMAGE})
            if pulled != manifest:
                self.failures.append(f"round {round_}: another manifest was pulled")
            _, pulled = self.request("GET", f"/v2/{repository}/blobs/{digest(layer)}", 200)
            if pulled != layer:
                self.failures.append(f"round {round_}: other bytes were pulled")


def main():
    addresses, stop = sys.argv[1:]
    clients = [Client(addresses.split(","), stop, number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failures = [failure for client in clients for failure in client.failures]
    for failure in failures[:20]:
        print(failure)
    print(f"{sum(client.requests for client in clients)} requests, {len(failures)} failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
