"""A Ray of two nodes on 127.0.0.1, in a process of its own: `python ray_nodes.py`. It writes its address, and then does
what it reads: "stop": the second node goes; "join": another comes, and "join FOLDER": one whose programs find packages
in that folder first; "head": the first one's register goes; "end".

By Ray's own utility for tests: `ray start` has no second node that listens on this machine only.
"""

from __future__ import annotations

import os
import sys

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or it listens everywhere
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "45"  # noqa: SIM112  # as the farm has it

from ray.cluster_utils import Cluster

PYTHONPATH = os.environ.get("PYTHONPATH", "")
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "stop":
            cluster.remove_node(second)
        elif line.strip() == "head":
            cluster.head_node.kill_gcs_server()
        elif line.startswith("join"):
            _, _, folder = line.strip().partition(" ")
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, PYTHONPATH)))
            cluster.add_node(**NODE)
        else:
            break
        sys.stdout.write("done\n")
        sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    main()
