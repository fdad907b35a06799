"""One Ray node of a rehearsal, on loopback: `python -m cluster.rehearsal.node <flags of ray start>`."""

from __future__ import annotations

import sys

from ray._private import ray_constants, services
from ray.scripts import scripts


def start_on_loopback() -> None:
    """Run `ray start` so that the node listens on 127.0.0.1 only.

    `ray start` replaces a loopback address by the machine's own, and then all its servers listen everywhere.
    Ray has a setting that turns this off (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which the rehearsal puts into
    every node's environment), but with it `ray start --address` refuses a second node.
    """
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda *_: "127.0.0.1"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    start_on_loopback()
