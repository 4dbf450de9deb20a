#!/usr/bin/env python3
"""Records what servers make of paths, in `readings.tsv`, which `shared/tests/paths.rs` holds the router against.

Each server has the same views: `/api/health`, `/api/*`, `/auth/login` and `/users/<id>/orders`. A line of the table is a request
target and, for each server, the view that served it; `none` where none did (404, 400, a redirect).

    python3 -m venv /tmp/record && /tmp/record/bin/pip install werkzeug==3.1.9 django==5.2.19 gunicorn==27.0.1
    npm install --prefix /tmp/record express@4.22.3 express5@npm:express@5.3.0
    (cd /tmp/record && apt-get download nginx libtomcat10-java libtomcat10-embed-java &&
        for package in *.deb; do dpkg-deb -x $package deb; done)
    /tmp/record/bin/python tests/paths/record.py /tmp/record

`SEED=7` in front records other paths. It needs Java 17 and Node 20. All servers listen on loopback and are stopped at the end. Jetty and IIS are not
there: `fuzz/src/readings.rs` has models of what is not recorded.
"""

import glob
import os
import random
import re
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "."
WORDS = ["api", "health", "users", "7", "orders", "auth", "login", "x"]
DOTS = ["..", "..;", "..;a=b", "%2e%2e", ".%2E", "%2e%2e;", "..%3B", ".", "%2e", ".;", "..%00"]
ODD = ["", ";", ";x", "%61pi", "api;x", "login;x", "%6cogin", "health;x", "orders;", "us%65rs", "7;x", "a%20b", "%2F", "..a"]
SLASHES = ["/"] * 30 + ["//", "\\", "%2F", "%5C", "%2f", "/./", "///"]
PATHS = ["/api/health", "/api/x", "/auth/login", "/users/7/orders", "/x", "/"]
RECORDED = 1500


def views():
    """The views as rules of werkzeug; Django's say the same."""
    return [("/api/health", "health"), ("/api/", "api"), ("/api/<path:rest>", "api"), ("/auth/login", "login"),
            ("/users/<id>/orders", "orders")]


def werkzeug_app():
    from werkzeug.exceptions import HTTPException
    from werkzeug.routing import Map, Rule
    from werkzeug.wrappers import Request, Response
    rules = Map([Rule(rule, endpoint=name) for rule, name in views()])

    @Request.application
    def app(request):
        try:
            return Response(rules.bind_to_environ(request.environ).match()[0])
        except HTTPException:
            return Response("none")
    return app


def django_app():
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import re_path
    answer = lambda name: lambda request, **_: HttpResponse(name)
    urls = [re_path(r"^api/health$", answer("health")), re_path(r"^api(?:/.*)?$", answer("api")),
            re_path(r"^auth/login$", answer("login")), re_path(r"^users/[^/]+/orders$", answer("orders"))]
    settings.configure(ROOT_URLCONF=tuple(urls), ALLOWED_HOSTS=["*"], SECRET_KEY="x", APPEND_SLASH=False)
    django.setup()
    from django.core.wsgi import get_wsgi_application
    return get_wsgi_application()


def serve(app, port):
    if app == "werkzeug":
        from werkzeug.serving import make_server
        make_server("127.0.0.1", port, werkzeug_app(), threaded=True).serve_forever()
    else:
        from wsgiref.simple_server import make_server
        make_server("127.0.0.1", port, django_app()).serve_forever()


def nginx(ports, tomcat):
    proxies = {ports[1]: f"proxy_pass http://127.0.0.1:{tomcat};", ports[2]: f"proxy_pass http://127.0.0.1:{tomcat}/;"}
    own = """location = /api/health { return 200 health; } location = /auth/login { return 200 login; }
        location ~ ^/users/[^/]+/orders$ { return 200 orders; } location = /api { return 200 api; }
        location /api/ { return 200 api; } location / { return 200 none; }"""
    servers = [f"server {{ listen 127.0.0.1:{ports[0]}; {own} }}"]
    servers += [f"server {{ listen 127.0.0.1:{port}; location / {{ {proxy} }} }}" for port, proxy in proxies.items()]
    run = os.path.join(TOOLS, "nginx")
    os.makedirs(run, exist_ok=True)
    temp = " ".join(f"{kind}_temp_path {run};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    with open(os.path.join(run, "nginx.conf"), "w") as file:
        file.write(f"daemon off; master_process off; pid {run}/pid; error_log {run}/error.log; events {{}}\n")
        file.write(f"http {{ access_log off; {temp} {' '.join(servers)} }}\n")
    return [os.path.join(TOOLS, "deb/usr/sbin/nginx"), "-p", run, "-c", os.path.join(run, "nginx.conf")]


def targets(seed):
    """Spellings that are likely to mean something to somebody."""
    choose = random.Random(seed)
    for path in PATHS:
        yield path
    while True:
        parts = choose.choice(PATHS).split("/")[1:]
        for _ in range(choose.randint(1, 2)):
            at = choose.randint(0, len(parts))
            what = choose.random()
            if what < 0.25:
                parts[at:at] = [choose.choice(WORDS), choose.choice(DOTS)]
            elif what < 0.5:
                parts[at:at] = [choose.choice(DOTS)]
            elif what < 0.75:
                parts[at:at] = [choose.choice(ODD)]
            elif at < len(parts):
                parts[at] = re.sub("^(api|login|health|orders)$", lambda word: choose.choice(
                    [word[0] + ";x", "%%%02x" % ord(word[0][0]) + word[0][1:], word[0] + "%3Bx"]), parts[at])
        target = "/" + "".join(part + choose.choice(SLASHES) for part in parts[:-1]) + parts[-1]
        yield choose.choice(["/", "\\", "/host/", ""]).join(["/", target[1:]]) if choose.random() < 0.1 else target


def ask(port, target):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"\b(health|api|login|orders|none)\b", body)
    return found[1].decode() if b" 200 " in head.split(b"\r\n")[0] and found else "none"


def serves(port):
    try:
        return ask(port, "/api/x") == "api"
    except OSError:
        return False


def main():
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(12)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    jars = ":".join(glob.glob(os.path.join(TOOLS, "deb/usr/share/java/*.jar")))
    subprocess.run(["javac", "-cp", jars, "-d", TOOLS, os.path.join(HERE, "Record.java")], check=True)
    java = lambda port, *more: ["java", "-cp", f"{TOOLS}:{jars}", "Record", str(port), TOOLS, *more]
    gunicorn = os.path.join(os.path.dirname(sys.executable), "gunicorn")
    servers = {
        "werkzeug": ports[0], "django": ports[1], "gunicorn": ports[2], "express4": ports[3], "express5": ports[4],
        "node-new-url": ports[5], "node-url-parse": ports[6], "nginx": ports[7], "nginx-tomcat": ports[8],
        "nginx-uri-tomcat": ports[9], "tomcat": ports[10], "tomcat-lenient": ports[11],
    }
    commands = [
        [sys.executable, __file__, TOOLS, "werkzeug", str(ports[0])], [sys.executable, __file__, TOOLS, "django", str(ports[1])],
        [gunicorn, "--chdir", HERE, "--bind", f"127.0.0.1:{ports[2]}", "--log-level", "critical", "--threads", "4",
         "record:GUNICORN"],
        ["node", os.path.join(HERE, "record.mjs"), TOOLS, *map(str, ports[3:7])], nginx(ports[7:10], ports[10]),
        java(ports[10]), java(ports[11], "lenient"),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command, **quiet) for command in commands]
    try:
        for name, port in servers.items():
            until = time.time() + 60
            while not serves(port):
                if time.time() > until:
                    raise RuntimeError(f"{name} does not serve /api/x")
                time.sleep(0.2)
        rows, seen = [], set()
        for target in targets(int(os.environ.get("SEED", "13"))):
            if target in seen:
                continue
            seen.add(target)
            read = [ask(port, target) for port in servers.values()]
            # A path that no server has a view for says nothing.
            if set(read) != {"none"}:
                rows.append("\t".join([target, *read]))
            if len(rows) == RECORDED or len(seen) > 20 * RECORDED:
                break
        with open(os.path.join(HERE, "readings.tsv"), "w") as file:
            file.write("\t".join(["target", *servers]) + "\n" + "\n".join(rows) + "\n")
        print(f"{len(rows)} of {len(seen)} targets recorded")
    finally:
        for process in running:
            process.terminate()


if __name__ == "record":
    GUNICORN = werkzeug_app()
elif __name__ == "__main__":
    main() if len(sys.argv) == 2 else serve(sys.argv[2], int(sys.argv[3]))
