"""An OpenID provider for tests of logins in a browser: one person, who is logged in there already.

    provider.py PORT REDIRECT_URI

Authorization code flow with PKCE (S256), checked as a strict provider does; ID tokens signed with RS256. Plain HTTP on
the loopback interface and the standard library only.
"""

import base64
import hashlib
import http.server
import json
import random
import secrets
import sys
import time
import urllib.parse

CLIENT_ID, CLIENT_SECRET = "jreg", "the secret of the client"
PERSON = {"sub": "u-17", "login": "carol", "groups": ["developers"]}
KEY_BITS, EXPONENT = 2048, 65537
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


def is_prime(number):
    """Miller and Rabin's test."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(30):
        power = pow(random.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime(bits):
    while True:
        number = secrets.randbits(bits) | 1 | 3 << (bits - 2)
        if number % EXPONENT != 1 and all(number % small for small in range(3, 2000, 2)) and is_prime(number):
            return number


class Key:
    """A key of RSA that was just made."""

    def __init__(self):
        one, two = prime(KEY_BITS // 2), prime(KEY_BITS // 2)
        self.modulus, self.secret = one * two, pow(EXPONENT, -1, (one - 1) * (two - 1))

    def sign(self, content):
        digest = SHA256_PREFIX + hashlib.sha256(content).digest()
        padded = b"\0\1" + b"\xff" * (KEY_BITS // 8 - len(digest) - 3) + b"\0" + digest
        return pow(int.from_bytes(padded, "big"), self.secret, self.modulus).to_bytes(KEY_BITS // 8, "big")

    def published(self):
        number = lambda of, length: encoded(of.to_bytes(length, "big"))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": number(self.modulus, KEY_BITS // 8), "e": number(EXPONENT, 3)}


def encoded(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Provider(http.server.BaseHTTPRequestHandler):
    key = Key()
    codes = {}
    issuer = redirect_uri = ""

    def log_message(self, *_):
        pass

    def respond(self, document, status=200):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/.well-known/openid-configuration":
            self.respond({
                "issuer": self.issuer, "authorization_endpoint": self.issuer + "/authorize", "token_endpoint": self.issuer + "/token",
                "jwks_uri": self.issuer + "/keys", "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            })
        elif path == "/keys":
            self.respond({"keys": [self.key.published()]})
        elif path == "/authorize":
            self.authorize(dict(urllib.parse.parse_qsl(query)))
        else:
            self.respond({"error": "not_found"}, 404)

    def authorize(self, asked):
        wanted = {"response_type": "code", "client_id": CLIENT_ID, "redirect_uri": self.redirect_uri, "code_challenge_method": "S256"}
        if any(asked.get(name) != value for name, value in wanted.items()) or "openid" not in asked.get("scope", "").split():
            return self.respond({"error": "invalid_request"}, 400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = urllib.parse.urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        self.send_response(302)
        self.send_header("Location", f"{self.redirect_uri}?{answer}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()))
        asked = self.codes.pop(form.get("code"), None)
        credentials = f"{urllib.parse.quote(CLIENT_ID)}:{urllib.parse.quote(CLIENT_SECRET, safe='')}"
        plus = credentials.replace("%20", "+")
        known = ["Basic " + base64.b64encode(one.encode()).decode() for one in (credentials, plus)]
        challenge = encoded(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if self.headers.get("Authorization") not in known and form.get("client_secret") != CLIENT_SECRET:
            return self.respond({"error": "invalid_client"}, 401)
        if asked is None or asked["code_challenge"] != challenge or form.get("redirect_uri") != self.redirect_uri:
            return self.respond({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {**PERSON, "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        part = lambda document: encoded(json.dumps(document).encode())
        signed = f"{part({'alg': 'RS256', 'kid': 'k1'})}.{part(claims)}"
        token = f"{signed}.{encoded(self.key.sign(signed.encode()))}"
        self.respond({"access_token": "x", "token_type": "Bearer", "expires_in": 300, "id_token": token})


if __name__ == "__main__":
    Provider.issuer, Provider.redirect_uri = f"http://127.0.0.1:{sys.argv[1]}", sys.argv[2]
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Provider).serve_forever()
