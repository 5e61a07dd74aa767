"""topology.toml -> Topology: what a lab's file may say, and what in it cannot be built."""

from __future__ import annotations

import ipaddress
import re

from netns_tw.errors import near_match
from netns_tw.model import settings
from netns_tw.model.folder import Folder
from netns_tw.model.reader import Document, Table, shown
from netns_tw.model.topology import (
    MAX_IFNAME_BYTES,
    Endpoint,
    HttpProxy,
    HttpServer,
    Interface,
    Link,
    Listen,
    Nginx,
    Node,
    Program,
    Programs,
    Route,
    Topology,
)
from netns_tw.rules import CLOSE_STYLES, NAME_RULE, TOPOLOGY, is_graphic, is_name, is_number

KINDS = ("nginx", "http-server", "http-proxy")
LISTEN_RULE = "ADDRESS:PORT, such as '198.18.1.1:80' or '[2001:db8::1]:80'"
NGINX_TOKENS = ("GLOBALS", "HTTP_GLOBALS", "LISTEN")
"""Filled in by the harness; GLOBALS and HTTP_GLOBALS must stand in every nginx.conf."""
_OF_TOKENS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
MAX_INT = 10**9
MIN_EHASH, MAX_EHASH = 1 << 8, 1 << 24
"""Buckets; the kernel's own limit above (tcp_child_ehash_entries_max, net/ipv4/sysctl_net_ipv4.c)."""
ANY_NODE = ("0.0.0.0", "::", "127.0.0.1", "::1")


def read_topology(folder: Folder) -> Topology:
    """Read a lab's topology.toml.

    Raises:
        FileProblems: all that is wrong in it.
    """
    document = Document(folder, TOPOLOGY)
    root = document.root
    root.check_format()
    name = root.text("name")
    if name and not is_name(name):
        root.problem("name", f"must be {NAME_RULE}, not {name!r}")
    description = root.text("description", "")
    ehash_entries = root.number("ehash_entries", 0, MIN_EHASH, MAX_EHASH)
    if ehash_entries & (ehash_entries - 1):
        root.problem("ehash_entries", f"must be a power of two, not {ehash_entries}")
    nodes = {one: read_node(one, table, folder) for one, table in root.tables("nodes")}
    if not nodes:
        root.problem("nodes", "missing; a lab has at least one node, [nodes.NAME]")
    found = [_link(table, nodes) for table in root.each("links")]
    links = tuple(filter(None, found))
    root.end()
    topology = Topology(name, description, nodes, links, folder.path, document.text, ehash_entries)
    _check_interfaces(root, topology)
    if len(links) == len(found):  # else it is not known who has which address
        _check_listeners(root, topology)
    document.finish()
    return topology


def read_node(name: str, table: Table, folder: Folder) -> Node:
    """Read one node's table; an experiment's overlay has the same form."""
    if not is_name(name):
        table.problem("", f"a node's name must be {NAME_RULE}")
    sysctls = _sysctls(table)
    program = table.table("program")
    programs = _programs(program, folder) if program else None
    routes = tuple(filter(None, (_route(one) for one in table.each("routes"))))
    table.end()
    return Node(name, sysctls, programs, routes)


def _sysctls(table: Table) -> dict[str, str]:
    found: dict[str, str] = {}
    inner = table.table("sysctls")
    for key, value in inner.items() if inner else ():
        assert inner is not None
        if type(value) not in (str, int):
            inner.problem(key, f"must be a string or a whole number, not {shown(value)}")
            continue
        text = " ".join(str(value).split())
        wrong = settings.problem(key, text)
        if wrong:
            inner.problem(key, wrong)
        else:
            found[key] = text
    return found


def listen_at(text: str) -> Listen:
    """Parse ``ADDRESS:PORT`` as a file may write it: the port in plain digits, no zone.

    Raises:
        ValueError: it is none.
    """
    port = text.rpartition(":")[2].removesuffix("\n")  # a line's end is no part of it
    if ":" not in text or not is_number(port) or len(port) > 5 or "%" in text:
        raise ValueError(text)
    return Listen.parse(text)


def _route(table: Table) -> Route | None:
    to = table.parsed("to", lambda text: str(ipaddress.ip_network(text)), "a network such as '198.18.2.0/24'")
    via = table.parsed("via", lambda text: str(ipaddress.ip_address(text)), "an address")
    table.end()
    if to and via and (":" in to) != (":" in via):
        table.problem("via", f"must be of the same IP version as {to}, not {via}")
    return Route(to, via) if to and via else None


def _programs(table: Table, folder: Folder) -> Programs | None:
    h11, nginx = table.table("h11"), table.table("nginx")
    default = _program(table, folder, KINDS)
    others = (
        _program(h11, folder, ("http-server", "http-proxy")) if h11 else None,
        _program(nginx, folder, ("nginx",)) if nginx else None,
    )
    return Programs(default, *others) if default else None


def _program(table: Table, folder: Folder, kinds: tuple[str, ...]) -> Program | None:
    kind = table.choice("kind", kinds)
    listen = table.parsed("listen", listen_at, LISTEN_RULE)
    found: Program | None = None
    if kind == "nginx":
        found = _nginx(table, listen, folder)
    elif kind == "http-server":
        found = _http_server(table, listen)
    elif kind == "http-proxy":
        upstream = table.parsed("upstream", listen_at, LISTEN_RULE)
        keepalive = table.number("keepalive", 0, 0, 10_000)
        limit = table.number("keepalive_requests", 1000, 1, MAX_INT)
        found = HttpProxy(listen, upstream, keepalive, limit) if listen and upstream else None
    if kind in kinds:
        table.end()
    return found


def _http_server(table: Table, listen: Listen | None) -> HttpServer | None:
    close = table.choice("close", CLOSE_STYLES, "keep-alive")
    status = table.number("status", 200, 200, 599)
    body = table.text("body", "hello from netns_tw\n")
    limit = table.number("max_requests", 0, 0, MAX_INT)
    idle = table.number("idle_timeout_ms", 60_000, 1, MAX_INT)
    return HttpServer(listen, close, status, body, limit, idle) if listen else None


def _nginx(table: Table, listen: Listen | None, folder: Folder) -> Nginx | None:
    config = table.text("config")
    tokens = _tokens(table)
    text = ""
    try:
        if "\0" in config or ".." in config.split("/") or config.startswith("/"):
            table.problem("config", f"{shown(config)} must lie in the lab's own folder")
        elif config:
            text = folder.read(config).decode()
            _check_tokens(table, config, text, tokens)
    except (OSError, UnicodeDecodeError) as error:
        near = near_match(config, folder.names("", ".conf"))
        table.problem("config", f"{shown(config)}: {getattr(error, 'strerror', None) or 'not UTF-8'}{near}")
    return Nginx(listen, config, text, tokens) if listen else None


def _tokens(table: Table) -> dict[str, str]:
    inner = table.table("tokens")
    found: dict[str, str] = {}
    for key, value in inner.items() if inner else ():
        assert inner is not None
        if not key or not _OF_TOKENS.issuperset(key) or key in NGINX_TOKENS:
            inner.problem(key, f"a token's name is of A-Z and '_', and none of {', '.join(NGINX_TOKENS)}")
        elif type(value) not in (str, int):
            inner.problem(key, f"must be a string or a whole number, not {shown(value)}")
        found[key] = str(value)
    return found


def _check_tokens(table: Table, config: str, text: str, tokens: dict[str, str]) -> None:
    used = set(re.findall(r"%%(\w+)%%", text))
    known = {*NGINX_TOKENS, *tokens}
    for token in sorted(used - known):
        table.problem("config", f"{config}: unknown token %%{token}%%{near_match(token, known)}")
    for token in ("GLOBALS", "HTTP_GLOBALS"):
        if token not in used:
            place = "at its top" if token == "GLOBALS" else "inside http { }"
            table.problem("config", f"{config}: needs %%{token}%% {place}: the lab's own paths go there")


def _link(table: Table, nodes: dict[str, Node]) -> Link | None:
    asked = table.has("endpoints")
    names = table.array("endpoints", str)
    addresses: list[list[object]] = table.array("addresses", list) or [[], []]
    table.end()
    if len(names) != 2:
        if names or not asked:
            table.problem("endpoints", f"must name two endpoints, ['NODE:INTERFACE', ...], not {len(names)}")
        return None
    if len(addresses) != 2:
        table.problem("addresses", f"must be two lists, one for each endpoint, not {len(addresses)}")
        return None
    ends = [_endpoint(table, name, given, nodes) for name, given in zip(names, addresses, strict=True)]
    left, right = ends
    return Link(left, right) if left and right else None


def _endpoint(table: Table, text: str, addresses: list[object], nodes: dict[str, Node]) -> Endpoint | None:
    node, colon, interface = text.partition(":")
    if not colon or not interface:
        table.problem("endpoints", f"{shown(text)} is not NODE:INTERFACE")
        return None
    if node not in nodes:
        table.problem("endpoints", f"{shown(text)}: no node {shown(node)}{near_match(node, nodes)}")
        return None
    if len(interface.encode()) > MAX_IFNAME_BYTES:
        table.problem("endpoints", f"{shown(text)}: an interface name has at most {MAX_IFNAME_BYTES} bytes")
    elif interface in (".", "..", "lo", "all", "default") or not is_graphic(interface):
        table.problem("endpoints", f"{shown(text)}: no name for an interface")
    elif not set("/:%").isdisjoint(interface):
        table.problem("endpoints", f"{shown(text)}: an interface name has no '/', ':' or '%'")
    found: list[Interface] = []
    for address in addresses:
        try:
            if not isinstance(address, str) or "/" not in address or "%" in address:
                raise ValueError
            found.append(ipaddress.ip_interface(address))
        except ValueError:
            table.problem("addresses", f"{shown(address)} is no address with a prefix, such as '198.18.1.1/24'")
    return Endpoint(node, interface, tuple(found)) if len(found) == len(addresses) else None


def _check_interfaces(root: Table, topology: Topology) -> None:
    """Each interface and each address once; both ends of a link in one network."""
    seen: dict[str, str] = {}
    for number, link in enumerate(topology.links):
        for end in link:
            if str(end) in seen:
                root.problem(f"links[{number}].endpoints", f"{end} is an end of {seen[str(end)]} already")
            seen[str(end)] = f"links[{number}]"
            for one in end.addresses:
                address = str(one.ip)
                if address in seen:
                    root.problem(f"links[{number}].addresses", f"{address} is used twice, here and by {seen[address]}")
                seen[address] = str(end)
        left, right = ({str(one.network) for one in end.addresses} for end in link)
        if left != right:
            words = (
                f"{end} is in {', '.join(sorted(nets)) or 'none'}"
                for end, nets in zip(link, (left, right), strict=True)
            )
            rule = "both ends of a link are in the same networks"
            root.problem(f"links[{number}].addresses", f"{', '.join(words)}; {rule}")


def _check_listeners(root: Table, topology: Topology) -> None:
    for node in topology.nodes.values():
        for path, problem in listener_problems(topology, node):
            root.problem(path, problem)


def listener_problems(topology: Topology, node: Node) -> list[tuple[str, str]]:
    """What is wrong with where a node's programs listen and connect to, given the lab's links; by key path."""
    found = []
    programs = node.programs
    sets = (("", programs.default), (".h11", programs.h11), (".nginx", programs.nginx)) if programs else ()
    for name, program in sets:
        path = f"nodes.{node.name}.program{name}"
        if program is None:
            continue
        address = program.listen.address
        owner = topology.owner_of(address)
        if address not in ANY_NODE and owner != node.name:
            other = f", but of {owner}" if owner else ""
            found.append((f"{path}.listen", f"{address} is no address of {node.name}{other}"))
        upstream = program.upstream.address if isinstance(program, HttpProxy) else None
        if upstream and upstream not in ANY_NODE and topology.owner_of(upstream) is None:
            found.append((f"{path}.upstream", f"no node of the lab has the address {upstream}"))
    return found
