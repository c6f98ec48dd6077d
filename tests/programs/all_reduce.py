"""An ordinary PyTorch program: all ranks sum a tensor, as often as is asked for."""

import sys

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
for turn in range(int(sys.argv[1])):
    tensor = torch.full((100_000,), float(rank + turn))
    dist.all_reduce(tensor)
    expected = sum(other + turn for other in range(size))
    assert torch.all(tensor == expected), f"rank {rank}, turn {turn}: {tensor[0]}, not {expected}"
dist.barrier()
print(f"rank {rank} of {size} has summed", flush=True)
