"""Memory for the pixels of batches, used again and again."""

import threading
import weakref

import numpy as np
import torch


class PatchBuffers:
    """Hands out uint8 patch tensors whose memory returns here once nobody holds them any more.

    A fresh batch of 256 patches is 38 MB of pages that the kernel has to clear, which takes longer than
    filling them. Memory that is still held is never handed out again: who keeps many batches gets as many
    buffers. With `pin` the memory is page-locked, and torch's own allocator recycles it, waiting for
    copies to the device that are under way.

    Args:
        size: side of a patch in pixels.
        pin: page-locked memory; None where there is a CUDA device.
    """

    def __init__(self, size: int, *, pin: bool | None = None) -> None:
        self._size = size
        self.pin = torch.cuda.is_available() if pin is None else pin
        self._lock = threading.Lock()
        self._free: list[np.ndarray] = []
        self._capacity = 0

    def take(self, count: int) -> torch.Tensor:
        """`(count, 3, size, size)` uint8 with anything in it."""
        if self.pin:
            return torch.empty((count, 3, self._size, self._size), dtype=torch.uint8, pin_memory=True)
        with self._lock:
            if count > self._capacity:
                self._capacity, self._free = count, []
            base = self._free.pop() if self._free else None
            capacity = self._capacity
        if base is None:
            base = np.empty((capacity, 3, self._size, self._size), np.uint8)
        view = base[:count]
        # The tensor below holds `view`, and all views of the tensor hold the tensor's memory.
        weakref.finalize(view, self._give_back, base).atexit = False
        return torch.from_numpy(view)

    def _give_back(self, base: np.ndarray) -> None:
        # No lock: this runs wherever the last holder lets go, also inside `take`. Appending is atomic.
        if len(base) == self._capacity:
            self._free.append(base)
