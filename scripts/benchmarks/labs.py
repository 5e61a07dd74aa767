"""The labs that are measured, as netns_tw's own topologies."""

from __future__ import annotations

import ipaddress

from netns_tw.model.topology import Endpoint, HttpServer, Link, Listen, Nginx, Node, Program, Topology

PORT = 80
URL = "http://198.18.1.1/"
NGINX = """%%GLOBALS%%
worker_processes 1;
events { worker_connections 4096; }
http {
    %%HTTP_GLOBALS%%
    server { listen %%LISTEN%%; location / { return 200 "hello from nginx\\n"; } }
}
"""
"""One worker that answers from memory: what nginx takes for a connection and a request, and nothing else."""


def _link(left: str, right: str, subnet: int) -> Link:
    """A link of subnet 198.18.*subnet*.0/24: .2 is the left end, .1 the right one."""
    ends = [
        Endpoint(text.split(":")[0], text.split(":")[1], (ipaddress.IPv4Interface(f"198.18.{subnet}.{host}/24"),))
        for text, host in ((left, 2), (right, 1))
    ]
    return Link(*ends)


def _topology(name: str, nodes: dict[str, dict[str, str]], *links: Link) -> Topology:
    return Topology(name, "", {one: Node(one, sysctls) for one, sysctls in nodes.items()}, links, "/")


def star(clients: int) -> Topology:
    """*clients* nodes, each with a link of its own to one server, which has as many interfaces."""
    names = [f"client{number}" for number in range(1, clients + 1)]
    links = [_link(f"{name}:eth0", f"server:eth{number}", number) for number, name in enumerate(names, 1)]
    return _topology("star", {"server": {}, **{name: {} for name in names}}, *links)


def nodes(count: int) -> Topology:
    """*count* nodes without links."""
    return _topology("nodes", {f"node{number}": {} for number in range(count)})


def pair(*servers: str) -> Topology:
    """A client with a link to each of *servers*, the first at 198.18.1.1, the second at 198.18.2.1."""
    links = [_link(f"client:eth{number}", f"{name}:eth0", number) for number, name in enumerate(servers, 1)]
    return _topology("pair", {"client": {}, **{name: {} for name in servers}}, *links)


def nginx(subnet: int = 1) -> Program:
    """nginx with one worker, at 198.18.*subnet*.1."""
    return Nginx(Listen(f"198.18.{subnet}.1", PORT), "nginx.conf", NGINX)


def built_in(subnet: int = 1) -> Program:
    """The built-in server as labs have it, at 198.18.*subnet*.1."""
    return HttpServer(Listen(f"198.18.{subnet}.1", PORT))
