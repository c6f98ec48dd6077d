"""The same with the addresses that the modal package gives, of the family that is asked for."""

import ipaddress
import os
import sys

import modal
import torch
import torch.distributed as dist

cluster = modal.Cluster.from_context()
rank, ips = cluster.container_rank(), cluster.container_ips(family=sys.argv[1])
# Whatever is used is from here.
for name in ["MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"]:
    del os.environ[name]
first = ipaddress.ip_address(ips[0])
address = f"[{first}]" if first.version == 6 else str(first)
dist.init_process_group(
    "gloo", init_method=f"tcp://{address}:29600", rank=rank, world_size=len(ips)
)
tensor = torch.ones(100_000) * rank
dist.all_reduce(tensor)
assert torch.all(tensor == sum(range(len(ips)))), tensor
dist.barrier()
print(f"rank {rank} of {len(ips)} has summed over {address}", flush=True)
