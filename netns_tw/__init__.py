"""TIME_WAIT laboratories in Linux network namespaces.

The house, from the ground up; imports point down only, and tests/test_layers.py proves it:

    errors, wait, rules     under every floor: exit codes, the one polling loop, words and facts without a kernel
    kernel/                 the only code that talks to the kernel: sandbox, namespaces, links, sysctls, sockets
    model/                  files and records as frozen dataclasses, and pure rules about them
    programs/               what runs on a node: HTTP server, proxy, clients, nginx, curl
    measure/                a node observed
    wiring, node, serving   links, nodes and programs
    lab, replay             a topology built, an experiment carried out; all inside a sandbox
    parallel                sandboxes side by side, their records by pipe
    scope, verdict          records against expectations; pure
    report/                 verdicts as text and JSON
    session, cli            one call of the command
"""

__version__ = "0.1.0"
