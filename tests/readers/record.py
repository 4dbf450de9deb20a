#!/usr/bin/env python3
"""Writes down what real readers make of odd cookies, queries and bodies: cookies.json, queries.json, bodies.json.

`shared/tests/readers.rs` holds the core against them, so that a test needs none of these programs. To record again, with
`pip install werkzeug==3.1.9 django==5.2.19`, `npm install cookie@1.1.1 qs@6.17.1` below `--node-modules`, and Debian 12's
`php-cli`, `golang-go`, `ruby` and `ruby-rack`:

    python3 tests/readers/record.py --node-modules DIR [--php php] [--go go] [--ruby ruby]
"""

import argparse
import http.cookies
import json
import pathlib
import random
import subprocess
import tempfile
import urllib.parse

import django
from django.conf import settings
from django.http import QueryDict
from django.http.cookie import parse_cookie as django_cookies
from werkzeug.http import parse_cookie as werkzeug_cookies

HERE = pathlib.Path(__file__).parent

NODE = """
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
const cookie = require("cookie"), qs = require("qs");
const parse = cookie.parse ?? cookie.parseCookie;
const text = (value) => (value === undefined || value === null ? null : String(value));
const of = { cookies: (t) => text(parse(t).t_k), queries: (t) => text(qs.parse(t).t_k),
  bodies: (t) => { try { return text(JSON.parse(t)?.t_k); } catch { return null; } } }[process.argv[1]];
console.log(JSON.stringify(texts.map(of)));
"""

PHP = """
$of = ["cookies" => function ($t) {
    // What the web server's module does is done by `parse_str` for queries alone; cookies need a server.
    return null;
}, "queries" => function ($t) { parse_str($t, $found); return $found["t_k"] ?? null; },
"bodies" => function ($t) { $found = json_decode($t, true, 100000, JSON_BIGINT_AS_STRING); return is_array($found) ? ($found["t_k"] ?? null) : null; }][$argv[1]];
$text = fn($v) => $v === null || is_array($v) ? null : (is_bool($v) ? ($v ? "true" : "false") : (string) $v);
$texts = json_decode(file_get_contents("php://stdin"), true);
echo json_encode(array_map(fn($t) => $text($of($t)), $texts), JSON_INVALID_UTF8_SUBSTITUTE);
"""

PHP_SERVER = """<?php
$v = $_COOKIE["t_k"] ?? null;
echo json_encode(is_array($v) ? null : $v, JSON_INVALID_UTF8_SUBSTITUTE);
"""

GO = """
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
)

func cookies(text string) *string {
	request := http.Request{Header: http.Header{"Cookie": {text}}}
	if found, err := request.Cookie("t_k"); err == nil {
		return &found.Value
	}
	return nil
}

func queries(text string) *string {
	values, _ := url.ParseQuery(text)
	if found, is := values["t_k"]; is {
		return &found[0]
	}
	return nil
}

func bodies(text string) *string {
	var body struct {
		Found any `json:"t_k"`
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&body) != nil {
		return nil
	}
	switch found := body.Found.(type) {
	case string, json.Number, bool:
		said := fmt.Sprint(found)
		return &said
	}
	return nil
}

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		panic(err)
	}
	read := map[string]func(string) *string{"cookies": cookies, "queries": queries, "bodies": bodies}[os.Args[1]]
	said := make([]*string, len(texts))
	for number, text := range texts {
		said[number] = read(text)
	}
	json.NewEncoder(os.Stdout).Encode(said)
}
"""

RUBY = """
require "json"
require "rack"
texts = JSON.parse(STDIN.read)
text = ->(v) { v.nil? || v.is_a?(Array) || v.is_a?(Hash) ? nil : v.to_s }
of = { "cookies" => ->(t) { Rack::Utils.parse_cookies_header(t)["t_k"] },
  "queries" => ->(t) { Rack::Utils.parse_nested_query(t)["t_k"] rescue nil },
  "bodies" => ->(t) { (v = JSON.parse(t)).is_a?(Hash) ? v["t_k"] : nil rescue nil } }[ARGV[0]]
puts JSON.generate(texts.map { |t| text.(of.(t)).then { |v| v && v.dup.force_encoding("UTF-8").scrub } })
"""


def simple_cookie(text):
    try:
        found = http.cookies.SimpleCookie(text).get("t_k")
    except http.cookies.CookieError:
        return None
    return found and found.value


def python_json(text):
    def said(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, (str, int, float)) else None

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said(found.get("t_k")) if isinstance(found, dict) else None


PYTHON = {
    "cookies": {
        "python": simple_cookie,
        "django": lambda text: django_cookies(text).get("t_k"),
        "werkzeug": lambda text: werkzeug_cookies(text).get("t_k"),
    },
    "queries": {
        "python": lambda text: (urllib.parse.parse_qs(text, keep_blank_values=True).get("t_k") or [None])[-1],
        "django": lambda text: QueryDict(text).get("t_k"),
    },
    "bodies": {"python": python_json},
}


def run(command, texts, **more):
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]}: {done.stderr}")
    return json.loads(done.stdout)


def php_cookies(php, texts):
    """PHP reads cookies of requests alone, so its own server is asked, without a line break in any."""
    import socket
    import time

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        pathlib.Path(folder, "index.php").write_text(PHP_SERVER)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = subprocess.Popen([*php, "-S", f"127.0.0.1:{port}", "-t", folder], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            return [ask(socket, port, text) for text in texts]
        finally:
            server.terminate()
            server.wait()


def ask(socket, port, text):
    with socket.create_connection(("127.0.0.1", port)) as stream:
        head = f"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncookie: {text}\r\n\r\n"
        stream.sendall(head.encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


def whole(text):
    """With U+FFFD for half of a surrogate pair, which is no text."""
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


COOKIES = {
    "between": ["; ", "; ", ";", ";", ",", ", ", " ", "\t", " ;\t"],
    "names": ["t_k", "t_k", "t_k", "T_K", "t.k", "t k", "t[k", "%74_k", "x", "x", "$Version", ""],
    "equals": ["=", "=", "=", " =", "= ", "\t=\t", "==", ""],
    "values": ["abc", "abc", "r1", "%61bc", "%2561bc", "a+b", '"abc"', '"abc', 'abc"', '"\\141bc"', '"a;b"', '"a,b"', "a b", "a,b", "t_k=abc", "", '""', "%"],
}  # fmt: skip
QUERIES = {
    "between": ["&", "&", "&", ";", "&&", "&;"],
    "names": ["t_k", "t_k", "t_k", "T_K", "t.k", "t%5Fk", "t+k", "t%20k", "t%5Bk", "t_k[]", "t_k[0]", "t_k[x]", "t_k%5B%5D", "+t_k", "x", ""],
    "equals": ["=", "=", "=", "=", "==", ""],
    "values": ["abc", "abc", "r1", "%61bc", "%2561bc", "a+b", "a%20b", "", "%", "%zz", "a=b"],
}  # fmt: skip
BODIES = {
    "between": [",", ",", ",", ",", " ,\n", ";", ""],
    "names": ['"t_k"', '"t_k"', '"T_K"', '"t\\u005fk"', '"t_\u212a"', '"x"', '"x"', '"y"', '"\\ud800"', "t_k", "'t_k'"],
    "equals": [":", ":", ":", ":", ":", " : ", ""],
    "values": ['"abc"', '"abc"', '"r1"', '"\\u0061bc"', "7", "7.0", "70e-1", "-0", "0", "1e400", "7.0000000000000000001", "18446744073709551617",
               "true", "null", "NaN", "[]", '{"t_k":"r2"}', '["abc"]', '"\\ud800"', "01", '"a\tb"', "/**/1"],
}  # fmt: skip

BY_HAND = {
    "cookies": [
        "t_k=abc", "t_k =abc", "t_k\t= abc", 't_k="abc"', "t_k=%61bc", "t_k=abc; t_k=r1", "t_k=r1; t_k=abc", "T_K=abc", "t.k=abc",
        "t k=abc", "t[k=abc", "x=y,t_k=abc", "x=y t_k=abc", "x=y, t_k=abc", 't_k="\\141bc"', 't_k="abc; x=y"', 't_k="abc', "t_k=abc x",
        "t_k=abc,x", '$Version=1; t_k="abc"; $Path="/"', "t_k", "t_k;t_k=abc", "=t_k=abc", "%74_k=abc", "t_k=a+b", "t_k=", 't_k=""', "t_k=a=b",
    ],
    "queries": ["t_k=abc", "t_k=r1&t_k=abc", "t.k=abc", "t_k=r1&t.k=abc", "t%20k=abc", "t_k[]=abc", "t_k=r1;t_k=abc", "t_k=abc;x", "x;t_k=abc", "T_K=abc"],
    "bodies": [
        '{"t_k":"abc"}', '{"t_k":"r1","t_k":"abc"}', '{"t_k":"r1","T_K":"abc"}', '{"T_K":"abc"}', '{"t_\u212a":"abc"}', '{"t_k":7}',
        '{"t_k":7.0}', '{"t_k":70e-1}', '{"t_k":7.0000000000000000001}', '{"t_k":18446744073709551617}', '{"t_k":"abc","x":1e400}',
        '{"x":NaN,"t_k":"abc"}', '{"t_k":NaN}', '\ufeff{"t_k":"abc"}', '{"t_k":"abc"} x', '{"t_k":"abc"}{"t_k":"r1"}', '{"t_k":"\\ud800"}',
        '{"t_k":"abc","x":"\\ud800"}', '{"t_k":"r1",/**/"t_k":"abc"}', '{"t_k":null}', '{"t_k":["abc"]}', '{"t_k":true}', '{"t_k":1e64}',
    ],
}  # fmt: skip


def texts_of(kind):
    """Some by hand, and some that are put together of pieces, always the same ones."""
    choose = random.Random(20261130)
    pieces = {"cookies": COOKIES, "queries": QUERIES, "bodies": BODIES}[kind]
    texts = list(BY_HAND[kind])
    while len(texts) < 500:
        text = ""
        for number in range(choose.choice([1, 1, 2, 2, 2, 3])):
            text += choose.choice(pieces["between"]) if number else ""
            text += "".join(choose.choice(pieces[part]) for part in ["names", "equals", "values"])
        texts.append("{" + text + "}" if kind == "bodies" else text.strip())
    return list(dict.fromkeys(texts))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node-modules", required=True)
    parser.add_argument("--php", default="php")
    parser.add_argument("--go", default="go")
    parser.add_argument("--ruby", default="ruby")
    options = parser.parse_args()
    settings.configure()
    django.setup(set_prefix=False)
    php, ruby = options.php.split(), options.ruby.split()
    with tempfile.TemporaryDirectory() as folder:
        main_go, program = pathlib.Path(folder, "main.go"), str(pathlib.Path(folder, "read"))
        main_go.write_text(GO)
        subprocess.run([options.go, "build", "-o", program, str(main_go)], check=True)
        for kind, readers in PYTHON.items():
            texts = texts_of(kind)
            said = {name: [read(text) for text in texts] for name, read in readers.items()}
            said["node"] = run(["node", "-e", NODE, kind], texts, env={"NODE_PATH": options.node_modules, "PATH": "/usr/local/bin:/usr/bin:/bin"})
            said["php"] = php_cookies(php, texts) if kind == "cookies" else run([*php, "-n", "-r", PHP, kind], texts)
            said["go"] = run([program, kind], texts)
            said["ruby"] = run([*ruby, "-e", RUBY, kind], texts)
            recorded = []
            for number, text in enumerate(texts):
                by = {name: whole(all_said[number]) for name, all_said in said.items() if all_said[number] is not None}
                if by:
                    recorded.append({"text": text, "said": by})
            lines = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in recorded)
            (HERE / f"{kind}.json").write_text(f"[\n{lines}\n]\n")
            print(kind, len(recorded), "of", len(texts))


main()
