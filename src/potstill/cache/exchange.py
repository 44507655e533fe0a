"""What the processes of a training tell each other while a store is filled."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist


def exchange(
    rows: np.ndarray, records: np.ndarray, writes: bool, device: torch.device
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Give the others the records that were just made, and get theirs. All processes must call it at the same step.

    Args:
        rows: where the new records belong, (n,), of any n.
        records: (n, size), uint8.
        writes: whether this process writes to a store.
        device: by which they talk.

    Returns:
        the rows and records of all processes, and whether any of them writes.
    """
    world, size = dist.get_world_size(), records.shape[1]
    mine = torch.tensor([len(rows), writes], device=device)
    facts = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(facts, mine)
    counts, writers = torch.stack(facts).cpu().unbind(1)
    if not writers.any() or not counts.any():
        return rows, records, bool(writers.any())
    parcel = np.zeros((int(counts.max()), 8 + size), np.uint8)
    parcel[: len(rows), :8] = rows.astype("<i8")[:, None].view(np.uint8)
    parcel[: len(rows), 8:] = records
    sent = torch.from_numpy(parcel).to(device)
    got = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(got, sent)
    whole = np.concatenate([g[:n].cpu().numpy() for g, n in zip(got, counts.tolist(), strict=True)])
    return np.ascontiguousarray(whole[:, :8]).view("<i8")[:, 0], whole[:, 8:], True
