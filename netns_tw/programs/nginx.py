"""A real nginx on a node: the lab's own nginx.conf with its tokens filled in, or one made for a close style.

Everything nginx writes goes to the node's folder (prefix ``-p``) and to its standard error: the packaged defaults
under /var/log and /var/lib would be opened before the configuration is read. It stays in the foreground, so that its
end is seen. Tokens:

    %%GLOBALS%%        at the top: daemon, pid, error_log, user
    %%HTTP_GLOBALS%%   inside http { }: access_log, the folders for temporary files
    %%LISTEN%%         the program's ``listen``
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from netns_tw.errors import EnvironmentLacks
from netns_tw.model.topology import HttpServer, Listen, Nginx

TEMP_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
UNLIMITED = 1_000_000_000


def version(nginx: str) -> str:
    """The version of the nginx at path *nginx*, ``1.22.1``; empty where it does not say."""
    found = re.search(r"nginx/([\d.]+)", _ask(nginx, "-v"))
    return found[1] if found else ""


def _ask(nginx: str, flag: str) -> str:
    done = subprocess.run([nginx, flag], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stderr + done.stdout


def command(nginx: str, folder: str) -> list[str]:
    """The argv that runs the nginx.conf in *folder*, in the foreground."""
    return [nginx, "-p", folder, "-e", "stderr", "-c", "nginx.conf"]


def render(program: Nginx, nginx: str) -> str:
    """Return the text of *program*'s configuration with its tokens filled in.

    Raises:
        EnvironmentLacks: it takes a module that this nginx was built without.
    """
    built = _ask(nginx, "-V")
    if "sub_filter" in program.config_text and "http_sub_module" not in built:
        raise EnvironmentLacks(f"{nginx} has no sub_filter (--with-http_sub_module): use --server h11")
    values = {
        "GLOBALS": _globals(),
        "HTTP_GLOBALS": _http_globals(built),
        "LISTEN": _listen(program.listen),
        **program.tokens,
    }
    return fill(program.config_text, values)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``%%NAME%%`` by its value; an unknown one stays."""
    return re.sub(r"%%([A-Z_]+)%%", lambda found: values.get(found[1], found[0]), text)


def kept(program: Nginx, version: str) -> tuple[int | None, int]:
    """How many connections to its upstream a configuration keeps, and how many requests each may carry.

    None: that cannot be told from the text. Defaults by nginx's CHANGES: keepalive_requests is 100 since 1.15.3 and
    1000 since 1.19.10, before there was no limit; since 1.29.7 upstream connections are kept unless told otherwise.
    """
    text = re.sub(r"#.*", "", fill(program.config_text, dict(program.tokens)))
    number = tuple(map(int, version.split("."))) if re.fullmatch(r"[\d.]*\d", version) else ()
    keepalive = re.findall(r"\bkeepalive\s+(\d{1,9})\s*;", text)
    asks = re.search(r"\bproxy_http_version\s+1\.1\s*;", text) and re.search(r'\bConnection\s+""\s*;', text)
    if not number or "include" in text or len(keepalive) > 1:
        return None, 0
    if not (keepalive and asks):
        is_off = number < (1, 29, 7) or re.search(r"\bproxy_http_version\s+1\.0\s*;", text)
        return (0 if is_off else None), 0
    limits = re.findall(r"\bkeepalive_requests\s+(\d{1,9})\s*;", text)
    default = 1000 if number >= (1, 19, 10) else 100 if number >= (1, 15, 3) else UNLIMITED
    return (int(keepalive[0]), int(limits[0]) if limits else default) if len(limits) < 2 else (None, 0)


def _globals() -> str:
    # As root the workers stay root: other users may not read the node's folder. An ordinary user has no choice.
    user = "user root root; " if os.geteuid() == 0 else ""
    return f"{user}daemon off; pid nginx.pid; error_log stderr error;"


def _http_globals(built: str) -> str:
    """The temporary folders of those modules that this nginx was built with and has paths for."""
    lines = ["access_log off;"]
    for name in TEMP_FOLDERS:
        option = name.replace("_", "-")
        if f"--http-{option}-temp-path" in built and f"--without-http_{name}_module" not in built:
            lines.append(f"{name}_temp_path temp-{option};")
    return " ".join(lines)


def _listen(listen: Listen) -> str:
    both = " ipv6only=off" if listen.address == "::" else ""
    return f"{listen} backlog=4096{both}"


STYLES = {
    "race": "keepalive_timeout 0;",
    # sub_filter makes the length unknown, so the body can only end with the connection
    "server-first": "keepalive_timeout 0; chunked_transfer_encoding off; sub_filter_types *; sub_filter '\x01' '';",
    "keep-alive": "keepalive_timeout {idle_ms}ms; keepalive_requests {requests};",
}
"""The close styles that nginx has. It cannot wait for the peer's FIN, nor reset a connection it answered."""
NO_TEXT = (204, 301, 302, 303, 304, 307, 308, 444)
"""Statuses for which ``return`` sends no text: the text would be a Location; 444 is a close without an answer."""
MAX_TEXT_BYTES = 3500
"""nginx reads its configuration through a buffer of 4096 bytes that a parameter must fit in (NGX_CONF_BUFFER)."""


def stand_in(server: HttpServer) -> Nginx | None:
    """Return an nginx that answers and closes as *server* does; None for a close style that nginx does not have."""
    body = server.body.replace("\\", "\\\\").replace('"', '\\"')
    if server.close not in STYLES or "$" in body or len(body.encode()) > MAX_TEXT_BYTES or server.status in NO_TEXT:
        return None
    if not body:
        return None  # sub_filter leaves it its length, and an error status gets nginx's own page
    style = STYLES[server.close].format(
        idle_ms=max(1, server.idle_timeout_ms), requests=server.max_requests or UNLIMITED
    )
    text = (
        "%%GLOBALS%%\nevents { worker_connections 4096; }\n"
        "http {\n    %%HTTP_GLOBALS%%\n    default_type text/plain;\n"
        f"    server {{\n        listen %%LISTEN%%;\n        {style}\n"
        f'        location / {{ return {server.status} "%%BODY%%"; }}\n    }}\n}}\n'
    )
    return Nginx(server.listen, f"made for close style {server.close}", text, {"BODY": body})
