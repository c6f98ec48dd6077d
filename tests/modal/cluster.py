"""Prints what the package says of its cluster: a line is a label, a tab, and a value."""

import os
import sys

import modal

cluster = modal.Cluster.from_context()
print("id", cluster.object_id, sep="\t")
print("rank", cluster.container_rank(), sep="\t")
print("ids", ",".join(cluster.container_ids()), sep="\t")
print("own rank by id", cluster.container_rank(os.environ["MODAL_TASK_ID"]), sep="\t")
print("ipv6", ",".join(cluster.container_ips()), sep="\t")
print("ipv4", ",".join(cluster.container_ips(family="ipv4")), sep="\t")
print("arguments", ",".join(sys.argv[1:]), sep="\t")
print("name", __name__, sep="\t")
try:
    modal.Cluster.from_id("cu-another").container_ids()
except Exception as error:
    print("another", f"{type(error).__name__}: {error}", sep="\t")
