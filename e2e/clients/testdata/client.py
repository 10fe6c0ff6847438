"""Makes requests on one connection over TLS until its input ends: python3 client.py WHAT ADDRESS HOST CAFILE"""
import socket
import ssl
import sys
import threading
import time

what, address, name, ca = sys.argv[1:]
host, port = address.rsplit(":", 1)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

context = ssl.create_default_context(cafile=ca)
context.minimum_version = ssl.TLSVersion.TLSv1_3
conn = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=name)
conn.settimeout(60)


def pattern(n):
    b, i = bytearray(), 0
    while len(b) < n:
        b += b"%d," % i
        i += 1
    return bytes(b[:n])


def answer(want):
    got = b""
    while b"\r\n\r\n" not in got:
        more = conn.recv(65536)
        if not more:
            sys.exit("the connection has ended after %d bytes of an answer" % len(got))
        got += more
    head, body = got.split(b"\r\n\r\n", 1)
    while len(body) < len(want):
        more = conn.recv(65536)
        if not more:
            sys.exit("the connection has ended after %d of %d bytes" % (len(body), len(want)))
        body += more
    if not head.startswith(b"HTTP/1.1 200 ") or b"\r\nconnection: close" in head.lower() or body != want:
        sys.exit("got %r and %d bytes, want %d" % (head, len(body), len(want)))
    print("ok", conn.getsockname()[1], flush=True)


def ask(method, path, extra=""):
    conn.sendall(("%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (method, path, name, extra)).encode())


small, large, upload = pattern(1000), pattern(300000), pattern(60000)
while not ended.is_set():
    time.sleep(0.005)
    if what == "get":
        ask("GET", "/fixed/1000")
        answer(small)
    elif what == "download":
        ask("GET", "/drip/300000")
        answer(large)
    else:
        ask("POST", "/echo", "Content-Length: %d\r\n" % len(upload))
        for i in range(0, len(upload), 3000):
            conn.sendall(upload[i:i + 3000])
            time.sleep(0.01)
        answer(upload)
