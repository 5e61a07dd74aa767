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
from pathlib import Path

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


def command(nginx: str, folder: Path) -> list[str]:
    """The argv that runs the nginx.conf in *folder*, in the foreground."""
    return [nginx, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]


def render(program: Nginx, nginx: str) -> str:
    """Return the text of *program*'s configuration with its tokens filled in."""
    values = {
        "GLOBALS": _globals(),
        "HTTP_GLOBALS": _http_globals(_ask(nginx, "-V")),
        "LISTEN": _listen(program.listen),
        **program.tokens,
    }
    return fill(program.config_text, values)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``%%NAME%%`` by its value; an unknown one stays."""
    return re.sub(r"%%([A-Z_]+)%%", lambda found: values.get(found[1], found[0]), text)


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
    return f"{listen} backlog=4096"


STYLES = {
    "race": "keepalive_timeout 0;",
    # sub_filter makes the length unknown, so the body can only end with the connection
    "server-first": "keepalive_timeout 0; chunked_transfer_encoding off; sub_filter_types *; sub_filter '\x01' '';",
    "keep-alive": "keepalive_timeout {idle_s}s; keepalive_requests {requests}; keepalive_time 365d;",
}
"""The close styles that nginx has. It cannot wait for the peer's FIN, nor reset a connection it answered."""


def stand_in(server: HttpServer) -> Nginx | None:
    """Return an nginx that answers and closes as *server* does; None for a close style that nginx does not have."""
    if server.close not in STYLES or "$" in server.body:
        return None
    style = STYLES[server.close].format(
        idle_s=max(1, server.idle_timeout_ms // 1000), requests=server.max_requests or UNLIMITED
    )
    body = server.body.replace("\\", "\\\\").replace('"', '\\"')
    text = (
        "%%GLOBALS%%\nevents { worker_connections 4096; }\n"
        "http {\n    %%HTTP_GLOBALS%%\n    default_type text/plain;\n"
        f"    server {{\n        listen %%LISTEN%%;\n        {style}\n"
        f'        location / {{ return {server.status} "{body}"; }}\n    }}\n}}\n'
    )
    return Nginx(server.listen, f"made for close style {server.close}", text)
