"""What one process compiled, the next one finds on disk."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch, fairtat
from torch._dynamo.utils import counters
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
x, target = torch.rand(8, 3, 2, 2), torch.zeros(8, dtype=torch.int64)
x_adv = fairtat.fast_targeted_pgd(model, x, target, steps=2, seed=0, engine="compiled")
found = counters["inductor"]
print(found["fxgraph_cache_miss"], found["fxgraph_cache_hit"], x_adv.double().sum().item())
"""


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
    def run() -> list[str]:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    first, second = run(), run()
    assert first[:2] == ["1", "0"]
    assert second[:2] == ["0", "1"]
    assert first[2] == second[2]
